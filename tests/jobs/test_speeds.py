"""Speeds measured in a run, from what is stored while its engines work."""

import time

import polars as pl
import pyarrow as pa
import pytest

from fusion.recipe import Recipe, Sampling
from fusion.records import RESPONSES
from fusion.run import Run
from jobs.sample import Asking
from jobs.speeds import measured_speeds, measuring
from services.source import Served


@pytest.fixture
def run(tmp_path):
    source = {"name": "one", "model": "org/one", "revision": "v1", "replicas": 2}
    dataset = {"name": "d", "path": "d.jsonl", "domain": "math", "fields": {"prompt": "q"}}
    raw = {
        "name": "small",
        "storage": str(tmp_path),
        "target": {"model": "org/target", "revision": "v1"},
        "sources": [source],
        "datasets": [dataset],
    }
    return Run(Recipe.model_validate(raw))


def _asking(run: Run) -> Asking:
    served = Served.of(run.recipe.sources[0])
    return Asking(served, "one-key", Sampling(), pl.DataFrame(), {})


def _store(run: Run, name: str, tokens: int) -> None:
    row = {f.name: "" if pa.types.is_string(f.type) else 0 for f in RESPONSES}
    row |= {"response_id": name, "prompt_id": "p", "source": "one", "source_key": "one-key"}
    row |= {"completion_tokens": tokens}
    table = pa.Table.from_pylist([row], schema=RESPONSES)
    run.shared("responses").partition("one-key").append(table)


def test_speed_is_what_one_engine_stored_in_the_time_that_it_worked(run):
    assert measured_speeds(run) == {}
    _store(run, "before", 5000)
    with measuring(run, [_asking(run)]):
        _store(run, "a", 100)
        time.sleep(0.2)
    assert 100 < measured_speeds(run)["one"] <= 100 / 0.4


def test_waves_add_up(run):
    for name in ("a", "b"):
        with measuring(run, [_asking(run)]):
            _store(run, name, 100)
            time.sleep(0.1)
    assert 100 < measured_speeds(run)["one"] <= 200 / 0.4
