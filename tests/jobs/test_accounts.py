"""The account of sampling: it balances, and too many failures are no result."""

import asyncio
from pathlib import Path

import polars as pl
import pytest

from fusion.errors import CrucibleError
from fusion.recipe import Engine, Recipe, Sampling
from fusion.records import RESPONSES
from fusion.run import Run
from jobs.accounts import sample_manifest
from jobs.committing import Commits
from jobs.sample import Asking, missing_requests
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


def test_responses_have_the_columns_that_the_table_wants(run, asking):
    _settle(run, asking, {})
    assert run.shared("responses").read().schema.names == RESPONSES.names
