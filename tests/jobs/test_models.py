"""What sources are asked: each key once, also where evaluation samples as the source does."""

import asyncio
import json
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from fusion.recipe import Recipe
from fusion.run import Run
from fusion.store import Manifest
from jobs.accounts import release_after_stop, sample_manifest
from jobs.committing import Commits
from jobs.ingest import load_prompts, run_ingest
from jobs.models import run_askings, source_keys
from jobs.sample import Asking, num_missing, request_blocks
from jobs.score import stored_answers
from services.answers import Answer

TRAIN, TEST = 5, 3
GREEDY = {"temperature": 0.0, "top_p": 1.0}


class Asked(NamedTuple):
    """A run, its prompts and what it asks."""

    run: Run
    prompts: pl.DataFrame
    askings: list[Asking]

    @property
    def num_missing(self) -> int:
        return sum(num_missing(self.run, asking) for asking in self.askings)


@pytest.fixture
def ask(tmp_path):
    """What a recipe asks that wants so many answers to each training prompt."""
    for name, rows in (("train", TRAIN), ("test", TEST)):
        texts = [f"{name} question {n} about thing {n * 7}" for n in range(rows)]
        lines = (json.dumps({"q": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))

    def ask(samples: int = 1, sampling: dict[str, float] = GREEDY) -> Asked:
        run = Run(_recipe(tmp_path, samples, sampling))
        run_ingest(run)
        prompts = load_prompts(run)
        return Asked(run, prompts, run_askings(run, prompts))

    return ask


def _recipe(folder: Path, samples: int, sampling: dict[str, float]) -> Recipe:
    datasets = [
        {
            "name": split,
            "path": str(folder / f"{split}.jsonl"),
            "domain": "chinese",
            "split": split,
            "fields": {"prompt": "q"},
        }
        for split in ("train", "test")
    ]
    datasets[0]["samples"] = samples
    model = {"model": "org/one", "revision": "v1"}
    source = {"name": "one", "sampling": sampling} | model
    return Recipe.model_validate(
        {
            "name": "r",
            "storage": str(folder / "runs"),
            "target": model,
            "sources": [source],
            "datasets": datasets,
        }
    )


def _answer(asked: Asked, *splits: str) -> None:
    """Commit an answer to all that is wanted of some splits, by default of both."""
    of = asked.prompts.filter(pl.col("split").is_in(splits or ("train", "test")))
    for asking in asked.askings:
        wanted = asking.wanted().join(of, on="prompt_id", how="semi")
        answers = [
            Answer(row["response_id"], row["prompt_id"], row["sample_index"], seed=0)
            for row in wanted.iter_rows(named=True)
        ]
        told = {"text": "t", "prompt_tokens": 1, "completion_tokens": 2}
        tables = asked.run.shared("responses"), asked.run.quarantine("sample")
        commits = Commits(*tables, asking.served.name, asking.source_key)
        commits.add([Answer(**vars(answer) | told) for answer in answers])
        asyncio.run(commits.write(all_=True))


def test_ways_to_sample_that_differ_are_asked_apart(ask):
    asked = ask(sampling={"temperature": 0.8})
    assert [asking.wanted().height for asking in asked.askings] == [TRAIN, TEST]
    assert len({asking.source_key for asking in asked.askings}) == 2


def test_training_and_held_out_prompts_of_one_key_are_one_asking(ask):
    asked = ask(samples=2)
    (asking,) = asked.askings
    assert asking.wanted().height == num_missing(asked.run, asking) == 2 * TRAIN + TEST
    keys = {*source_keys(asked.run, "train").values(), *source_keys(asked.run, "test").values()}
    assert keys == {asking.source_key}


def test_the_account_of_a_key_that_both_share_balances(ask):
    asked = ask()
    _answer(asked)
    manifest = sample_manifest(asked.run, asked.askings, [])
    assert (manifest.counts.entered, manifest.counts.results) == (TRAIN + TEST, TRAIN + TEST)
    assert manifest.tokens == {"prompt": TRAIN + TEST, "completion": 2 * (TRAIN + TEST)}
    assert manifest.inputs == {asked.askings[0].source_key: str(TRAIN + TEST)}
    assert [(row["dataset"], row["asked"]) for row in manifest.yields["asked"]] == [
        ("train", TRAIN),
        ("test", TEST),
    ]


def test_more_samples_ask_for_exactly_what_is_missing(ask):
    _answer(ask())
    more = ask(samples=3)
    assert more.num_missing == 2 * TRAIN
    assert release_after_stop(more.run, more.askings) == 0
    _answer(more)
    assert more.num_missing == 0
    assert sample_manifest(more.run, more.askings, []).counts.results == 3 * TRAIN + TEST


def test_a_run_that_stopped_after_its_held_out_prompts_goes_on(ask):
    asked = ask()
    _answer(asked, "test")
    assert asked.num_missing == TRAIN
    _answer(asked, "train")
    assert asked.num_missing == 0
    sample_manifest(asked.run, asked.askings, [])
    assert Manifest.read(asked.run.manifest("sample"))


def test_only_answers_to_held_out_prompts_may_be_empty(ask):
    asked = ask()
    (asking,) = asked.askings
    blocks = request_blocks(asked.run, asking)
    keeps_all = {split: set() for split in ("train", "test")}
    splits = dict(asked.prompts.select("prompt_id", "split").iter_rows())
    for block in blocks:
        assert len(set(block["keeps_all"].to_pylist())) == 1
        for row in block.to_pylist():
            keeps_all[splits[row["prompt_id"]]].add(row["keeps_all"])
    assert keeps_all == {"train": {False}, "test": {True}}
    assert sum(block.num_rows for block in blocks) == TRAIN + TEST


def test_nothing_missing_makes_no_block(ask):
    asked = ask()
    _answer(asked)
    assert request_blocks(asked.run, asked.askings[0]) == []


def test_every_answer_is_scored_once(ask):
    asked = ask()
    _answer(asked)
    keys = [asking.source_key for asking in asked.askings]
    assert stored_answers(asked.run, asked.prompts, keys).height == TRAIN + TEST
