"""What is brought up, in which order, and what goes down before: real Ray and Serve, no engines."""

import time
from collections.abc import AsyncIterator, Sequence
from io import StringIO

import polars as pl
import pytest
from ray import serve
from rich.console import Console

from cluster.connection import LOCAL_SLOTS, connected, holdings_of
from cluster.nodes import Node
from fusion.errors import CrucibleError
from fusion.identity import response_id, sampling_seed
from fusion.recipe import Engine, Recipe, Sampling
from fusion.run import Run
from jobs import answering
from jobs.answering import Answering
from jobs.progress import Progress
from jobs.sample import Asking, missing_requests
from services.answers import Answer, Finished, Manner, SampleRequest
from services.applications import (
    down,
    run_deployment,
    running,
    serving,
    source_application_name,
    start_serve,
    up,
)
from services.source import Served

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PROMPTS = 16
WAIT_S = 10
NODE = Node("n", cpus=8, memory_gib=6)  # less what Ray takes, a source fits, and no second one


class Source:
    """Answers at once."""

    async def sample(
        self, requests: Sequence[SampleRequest], manner: Manner
    ) -> AsyncIterator[Finished]:
        yield Finished([], 64)
        answers = []
        for request in requests:
            for wanted in request.wanted:
                id_ = response_id(request.prompt_id, manner.source_key, wanted.sample_index)
                seed = sampling_seed(id_, wanted.draw)
                answers.append(Answer(id_, request.prompt_id, wanted.sample_index, seed, text="t"))
        yield Finished(answers, 64)


class Loading:
    """Takes longer to load than anybody waits for room."""

    def __init__(self) -> None:
        time.sleep(WAIT_S + 4)


def _application(
    cpus: float = 1, *, name: str = "Source", kind: type = Source
) -> serve.Application:
    return serve.deployment(
        kind,
        name=name,
        ray_actor_options={"num_cpus": 0},
        placement_group_bundles=[{"CPU": cpus}],
    ).bind()


def _run(name: str, folder) -> Run:
    model = {"model": "m", "revision": "v1"}
    return Run(
        Recipe.model_validate(
            {
                "name": name,
                "storage": str(folder),
                "target": model,
                "sources": [{"name": source} | model for source in ("one", "two", "three", "four")],
                "datasets": [
                    {"name": "d", "path": "d.jsonl", "domain": "math", "fields": {"prompt": "q"}}
                ],
            }
        )
    )


@pytest.fixture(scope="module")
def there():
    """Ray and Serve on this machine, and what it holds."""
    with connected() as holdings:
        start_serve()
        yield holdings


def test_a_run_that_starts_takes_down_what_an_earlier_driver_of_it_left_up(there, tmp_path):
    left = {
        "a-source-one": run_deployment("a"),
        "a-source-gone-from-the-recipe": run_deployment("a"),
        "a-source-b-source-one": run_deployment("a-source-b"),
        "a-source-two": "Source",  # an endpoint's
    }
    up({name: _application(name=deployment) for name, deployment in left.items()})
    try:
        with Answering(_run("a", tmp_path), there, Progress(Console(file=StringIO()))):
            assert running() == ["a-source-b-source-one", "a-source-two"]
    finally:
        down(list(left))


def test_the_largest_finds_its_place_first_and_who_finds_none_is_named_in_time(there):
    applications = {name: _application(LOCAL_SLOTS * 0.6) for name in ("small", "large")}
    with (
        pytest.raises(CrucibleError, match=r"no room for small for 10 s; .*failures.wait_s"),
        serving(applications, gpus={"large": 8}, wait_s=WAIT_S),
    ):
        pass
    assert running() == []


def test_who_loads_for_long_is_not_taken_for_one_without_room(there):
    with serving({"loading": _application(kind=Loading)}, wait_s=WAIT_S):
        assert running() == ["loading"]


def test_waves_follow_the_nodes_that_are_there_when_they_come_up(there, tmp_path, monkeypatch):
    """Two nodes at first; one of them leaves while the first wave answers."""
    run = _run("a", tmp_path)
    holdings = iter([holdings_of([NODE, NODE]), holdings_of([NODE]), holdings_of([NODE])])
    monkeypatch.setattr(answering, "current_holdings", lambda: next(holdings))
    monkeypatch.setattr(
        answering,
        "source_applications",
        lambda recipe, served, holdings, *, deployment: {
            source_application_name(recipe.name, s.name): _application(name=deployment)
            for s in served
        },
    )
    prompts = pl.DataFrame(
        {
            "prompt_id": [f"p{n}" for n in range(PROMPTS)],
            "dataset": "d",
            "split": "train",
            "messages": [[{"role": "user", "content": str(n)}] for n in range(PROMPTS)],
        }
    )
    askings = [
        Asking(Served(s.name, "m", None, Engine()), f"{s.name}-key", Sampling(), prompts, {"d": 1})
        for s in run.recipe.sources
    ]
    said = StringIO()
    with Answering(run, there, Progress(Console(file=said))) as answers:
        answers.run(askings, prompts, score=False)
    starts = [line for line in said.getvalue().splitlines() if "starting" in line]
    waves = [line.partition("starting ")[2].strip() for line in starts]
    assert waves == ["one, two", "three", "four"]
    assert all(missing_requests(run, asking).is_empty() for asking in askings)
