"""Sources that fail, die and stay away: real Ray, Serve and files, engines that act a part."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
import ray
from ray import serve

from cluster.connection import connected
from fusion.errors import CrucibleError
from fusion.identity import response_id, sampling_seed
from fusion.recipe import Engine, Recipe, Sampling
from fusion.records import RESPONSES
from fusion.rewards.judgement import Judgement
from fusion.run import Run
from jobs.ingest import load_prompts, run_ingest
from jobs.rating import score_rewards
from jobs.sample import Asking, missing_requests, sample
from jobs.score import reward_wants, stored_answers
from services.answers import Answer, Finished, Manner, SampleRequest
from services.applications import (
    reward_application_name,
    serving,
    source_application_name,
    start_serve,
)
from services.source import Served

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PROMPTS = 200


class Source:
    """Answers at once, but as its part says: `fails`, is `late`, `dies`, or `leaves` for good."""

    def __init__(self, part: str, folder: str) -> None:
        self._part = part
        self._deaths = Path(folder) / "deaths"
        if part == "leaves" and self._num_deaths():
            raise RuntimeError("its weights are gone")

    async def sample(
        self, requests: list[SampleRequest], manner: Manner
    ) -> AsyncIterator[Finished]:
        yield Finished([], 64)
        if self._part == "leaves" or (self._part == "dies" and self._num_deaths() < 2):
            with self._deaths.open("a") as file:
                file.write("x")
            os._exit(1)
        if self._part == "late":
            await asyncio.sleep(6)
        yield Finished(
            [self._answer(r.prompt_id, w, manner) for r in requests for w in r.wanted], 64
        )

    def _answer(self, prompt, wanted, manner: Manner) -> Answer:
        id_ = response_id(prompt, manner.source_key, wanted.sample_index)
        fails = self._part == "fails" and int(id_[0], 16) < 8
        failure = {"failure": "looping", "detail": "again and again"} if fails else {}
        seed = sampling_seed(id_, wanted.draw)
        return Answer(id_, prompt, wanted.sample_index, seed, text="t", prompt_tokens=1, **failure)

    def _num_deaths(self) -> int:
        return len(self._deaths.read_text()) if self._deaths.exists() else 0


class Reward:
    """Dies twice, then gives every answer the same reward."""

    def __init__(self, folder: str) -> None:
        self._deaths = Path(folder) / "deaths"

    def score(self, conversations: list) -> list[Judgement]:
        if not self._deaths.exists() or len(self._deaths.read_text()) < 2:
            with self._deaths.open("a") as file:
                file.write("x")
            os._exit(1)
        return [Judgement(0.5)] * len(conversations)


@pytest.fixture(scope="module")
def ray_is_up():
    with connected():
        start_serve()
        yield


@pytest.fixture
def asked(ray_is_up, tmp_path, request):
    """A run, what it asks, and the error that asking ended with, of a source in a part."""
    part = request.param
    run = Run(Recipe.model_validate(_recipe(part, tmp_path)))
    messages = [[{"role": "user", "content": str(n)}] for n in range(PROMPTS)]
    ids = [f"p{n}" for n in range(PROMPTS)]
    labels = {"dataset": "d", "split": "train"}
    prompts = pl.DataFrame({"prompt_id": ids, **labels, "messages": messages})
    served = Served("one", "m", None, Engine())
    asking = Asking(served, "one-key", Sampling(), prompts, {"d": 4})
    name = source_application_name(run.recipe.name, "one")
    deployment = serve.deployment(Source, name="Source", max_ongoing_requests=64)
    error = None
    with serving({name: deployment.bind(part, str(tmp_path))}):
        try:
            sample(run, [asking])
        except CrucibleError as raised:
            error = str(raised)
    return run, asking, error


def _recipe(part: str, folder: Path) -> dict:
    dataset = {
        "name": "d",
        "path": str(folder / "d.jsonl"),
        "domain": "math",
        "fields": {"prompt": "q"},
    }
    model = {"model": "m", "revision": "v1"}
    return {
        "name": f"patience-{part}",
        "storage": str(folder),
        "target": model,
        "sources": [{"name": "one"} | model],
        "datasets": [dataset],
        "reward": model,
        "failures": {"limit": 0.3, "wait_s": 8 if part == "leaves" else 120},
    }


@pytest.fixture
def impatient_ray_data():
    """Ray Data that gives up after a second without output, where it is not told otherwise."""
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = 1


@pytest.mark.parametrize("asked", ["late"], indirect=True)
def test_a_source_may_be_silent_for_longer_than_ray_data_waits_by_itself(impatient_ray_data, asked):
    run, asking, error = asked
    assert error is None
    assert missing_requests(run, asking).is_empty()


@pytest.mark.parametrize("asked", ["fails"], indirect=True)
def test_too_many_failures_stop_sampling_with_their_count_and_examples(asked):
    run, _, error = asked
    assert "answers asked of one failed and failures.limit is 0.3" in error
    assert error.count("looping: again and again") == 3
    attempts = run.quarantine("sample").read(["attempts"])["attempts"].to_pylist()
    assert len(attempts) >= 100 and set(attempts) == {2}


@pytest.mark.parametrize("asked", ["dies"], indirect=True)
def test_a_source_that_dies_twice_gives_every_answer_in_the_end(asked):
    run, asking, error = asked
    assert error is None
    assert missing_requests(run, asking).is_empty()
    assert run.shared("responses").num_rows == 4 * PROMPTS


@pytest.mark.parametrize("asked", ["leaves"], indirect=True)
def test_a_source_that_stays_away_ends_sampling_with_one_sentence(asked):
    run, _, error = asked
    assert error.startswith("The source one died (")
    assert "did not come back within 8 s; Ray Serve says: " in error
    assert "\n" not in error
    assert run.quarantine("sample").num_rows == 0


def test_a_reward_model_that_dies_twice_gives_every_reward_in_the_end(ray_is_up, tmp_path):
    run = Run(Recipe.model_validate(_recipe("reward", tmp_path)))
    (tmp_path / "d.jsonl").write_text(json.dumps({"q": "why?"}) + "\n")
    run_ingest(run)
    prompts = load_prompts(run)
    (prompt,) = prompts["prompt_id"]
    run.shared("responses").partition("one-key").append(
        pa.Table.from_pylist(
            [
                {
                    "response_id": response_id(prompt, "one-key", n),
                    "prompt_id": prompt,
                    "source": "one",
                    "source_key": "one-key",
                    "sample_index": n,
                    "text": f"answer {n}",
                    "finish_reason": "stop",
                }
                for n in range(PROMPTS)
            ],
            RESPONSES,
        )
    )
    answers = stored_answers(run, prompts, ["one-key"])
    deployment = serve.deployment(Reward, name="Reward").bind(str(tmp_path))
    with serving({reward_application_name(run.recipe.name): deployment}):
        score_rewards(run, reward_wants(run.recipe, answers))
    rewards = run.shared("scores").read(["reward"])["reward"].to_pylist()
    assert rewards == [0.5] * PROMPTS
