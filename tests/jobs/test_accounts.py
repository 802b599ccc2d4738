"""The account of sampling: it balances, and too many failures are no result."""

import asyncio
import dataclasses
from pathlib import Path

import polars as pl
import pytest

from fusion.entries import Entries
from fusion.errors import CrucibleError
from fusion.ingest import DatasetCounts
from fusion.recipe import Engine, Failures, Recipe, Sampling
from fusion.records import RESPONSES
from fusion.run import Run
from jobs.accounts import release_after_stop, sample_manifest
from jobs.committing import Commits
from jobs.sample import Asking, missing_requests, release_failures
from services.answers import Answer
from services.source import Served

KEY = "one-key"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    dataset = {"name": "d", "path": "d.jsonl", "domain": "math", "fields": {"prompt": "q"}}
    model = {"name": "one", "model": "org/one", "revision": "v1"}
    target = {"model": "org/target", "revision": "v1"}
    fields = {"name": "r", "storage": str(tmp_path), "failures": {"limit": 0.3}}
    sections = {"target": target, "sources": [model], "datasets": [dataset]}
    return Run(Recipe.model_validate(fields | sections))


@pytest.fixture
def asking() -> Asking:
    """Ten answers wanted: two of each of five prompts."""
    prompts = pl.DataFrame(
        {
            "prompt_id": [f"p{n}" for n in range(5)],
            "dataset": ["d"] * 5,
            "messages": [[{"role": "user", "content": str(n)}] for n in range(5)],
        }
    )
    served = Served("one", "org/one", "v1", Engine())
    return Asking(served, KEY, Sampling(), prompts, {"d": 2})


def _settle(run: Run, asking: Asking, failures: dict[int, tuple[str, int]]) -> None:
    """Commit an answer to all that is wanted, or a failure where one is given by position."""
    settled = []
    for number, row in enumerate(asking.wanted().iter_rows(named=True)):
        reason, attempts = failures.get(number, (None, 1))
        answer = Answer(row["response_id"], row["prompt_id"], row["sample_index"], seed=0)
        told = {"failure": reason, "attempts": attempts, "prompt_tokens": 1, "detail": "why"}
        settled.append(Answer(**vars(answer) | told))
    commits = Commits(run.shared("responses"), run.quarantine("sample"), "one", KEY)
    commits.add(settled)
    asyncio.run(commits.write(all_=True))


def test_answers_and_quarantine_add_up_to_what_was_asked(run, asking):
    _settle(run, asking, {0: ("too_long", 1), 1: ("too_long", 1), 7: ("timeout", 3)})
    counts = sample_manifest(run, [asking], []).counts
    assert (counts.entered, counts.results) == (10, 7)
    assert counts.quarantined == {"timeout": 1, "too_long": 2}
    assert missing_requests(run, asking).is_empty()


def test_failures_are_told_by_data_set_and_source(run, asking):
    other = dataclasses.replace(asking, prompts=asking.prompts.with_columns(dataset=pl.lit("e")))
    halves = asking.prompts.head(3), other.prompts.tail(2)
    both = dataclasses.replace(asking, prompts=pl.concat(halves), samples={"d": 2, "e": 2})
    datasets = [run.recipe.dataset("d").model_copy(update={"name": name}) for name in ("d", "e")]
    run = Run(run.recipe.model_copy(update={"datasets": tuple(datasets)}))
    _settle(run, both, {0: ("too_long", 1), 9: ("timeout", 3)})
    manifest = sample_manifest(run, [both], [])
    told = Entries.of(run.recipe, {"sample": manifest})
    assert [(row.dataset, row.source, row.asked, row.answers) for row in told.answers] == [
        ("d", "one", 6, 5),
        ("e", "one", 4, 3),
    ]
    assert told.failed("d", "one") == {"too_long": 1}
    assert told.failed("e", "one") == {"timeout": 1}


def test_imported_answers_are_told_with_what_was_left_out(run):
    fields = {"text": "t", "prompt": "q"}
    source = {"name": "two", "kind": "imported", "path": "a.jsonl", "fields": fields}
    recipe = Recipe.model_validate(run.recipe.model_dump() | {"sources": [source]})
    counts = DatasetCounts(9, 5, {"no_prompt": 3}, {"missing_field": 1})
    (row,) = Entries.of(recipe, {"sample": sample_manifest(Run(recipe), [], [counts])}).answers
    assert (row.source, row.asked, row.answers) == ("two", 9, 5)
    assert row.failed == {"no_prompt": 3, "missing_field": 1}


def test_a_row_with_attempts_left_is_asked_again(run, asking):
    _settle(run, asking, {0: ("timeout", 1), 1: ("too_long", 1)})
    (request,) = missing_requests(run, asking).iter_rows(named=True)
    assert (request["prompt_id"], request["sample_indexes"]) == ("p0", [0])


def test_a_row_that_was_answered_in_the_end_counts_once(run, asking):
    _settle(run, asking, {0: ("timeout", 1)})
    _settle(run, asking, {})
    counts = sample_manifest(run, [asking], []).counts
    assert (counts.results, counts.quarantined) == (10, {})


def test_too_many_failures_end_the_stage_with_their_count_and_three_examples(run, asking):
    _settle(run, asking, dict.fromkeys(range(4), ("looping", 2)))
    with pytest.raises(CrucibleError, match=r"4 of the 10 answers .* failures.limit is 0.3"):
        sample_manifest(run, [asking], [])
    assert not run.manifest("sample").exists()


def test_what_the_machine_failed_at_is_asked_again_by_the_start_after_a_stop(run, asking):
    _settle(run, asking, dict.fromkeys(range(4), ("timeout", 3)) | {9: ("too_long", 1)})
    with pytest.raises(CrucibleError, match=r"5 of the 10 answers"):
        sample_manifest(run, [asking], [])
    assert missing_requests(run, asking).is_empty()
    assert release_after_stop(run, [asking]) == 4
    assert missing_requests(run, asking)["sample_indexes"].list.len().sum() == 4
    assert release_failures(run, [asking]) == 0
    _settle(run, asking, {9: ("too_long", 1)})
    counts = sample_manifest(run, [asking], []).counts
    assert (counts.results, counts.quarantined) == (9, {"too_long": 1})


@pytest.mark.parametrize(
    "failures",
    [
        dict.fromkeys(range(3), ("timeout", 3)),
        dict.fromkeys(range(4), ("looping", 2)),
        dict.fromkeys(range(4), ("rejected", 1)),
    ],
)
def test_few_failures_and_those_that_no_mending_helps_stay_where_they_are(run, asking, failures):
    _settle(run, asking, failures)
    before = run.quarantine("sample").read()
    assert release_failures(run, [asking]) == 0
    assert run.quarantine("sample").read().equals(before)
    assert missing_requests(run, asking).is_empty()


def test_a_stop_in_the_midst_of_sampling_counts_what_was_tried(run, asking):
    few = dataclasses.replace(asking, prompts=asking.prompts.head(1))
    _settle(run, few, {0: ("engine_died", 6)})
    assert release_failures(run, [asking]) == 1
    assert missing_requests(run, asking)["sample_indexes"].list.len().sum() == 9


def test_what_failed_in_a_run_that_passed_is_asked_again_only_under_a_lower_limit(run, asking):
    _settle(run, asking, dict.fromkeys(range(3), ("timeout", 3)))
    sample_manifest(run, [asking], [])
    recipe = run.recipe.model_copy(update={"failures": Failures(limit=0.1)})
    stricter = Run(recipe)
    assert release_after_stop(stricter, [asking]) == 0
    with pytest.raises(CrucibleError, match=r"failures.limit is 0.1"):
        sample_manifest(stricter, [asking], [])
    assert release_after_stop(stricter, [asking]) == 3


def test_responses_have_the_columns_that_the_table_wants(run, asking):
    _settle(run, asking, {})
    assert run.shared("responses").read().schema.names == RESPONSES.names
