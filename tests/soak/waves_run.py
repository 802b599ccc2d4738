"""Runs a recipe on declared GPUs and writes down, second by second, what Ray says of them.

There is no GPU here, so what would run on one is replaced at its border: a source that answers
after a while and a reward model that gives a number, each with the placement groups of the real
ones. Plan, waves, Serve, Ray Data and store are the product's.
"""

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import serve
from rich.console import Console

from cluster.connection import Holdings
from fusion.identity import response_id, sampling_seed
from fusion.recipe import Recipe
from fusion.recipe_file import load_recipe
from fusion.rewards.judgement import Judgement
from jobs import answering
from jobs.progress import Progress
from jobs.run import run_recipe
from services.answers import Answer, Finished, Manner, SampleRequest, Wanted
from services.applications import reward_application_name, source_application_name
from services.source import Served, _bundles

CALL_S = 2.0
WINDOW = 256


class Source:
    """Answers every call after a while."""

    async def sample(
        self, requests: Sequence[SampleRequest], manner: Manner
    ) -> AsyncIterator[Finished]:
        yield Finished([], WINDOW)
        await asyncio.sleep(CALL_S)
        answers = [_answer(r.prompt_id, w, manner.source_key) for r in requests for w in r.wanted]
        yield Finished(answers, WINDOW)


class Reward:
    """Gives every answer the same reward."""

    def score(self, conversations: Sequence[Any]) -> list[Judgement]:
        time.sleep(CALL_S)
        return [Judgement(0.5)] * len(conversations)


def _answer(prompt: str, wanted: Wanted, key: str) -> Answer:
    id_ = response_id(prompt, key, wanted.sample_index)
    seed = sampling_seed(id_, wanted.draw)
    return Answer(
        id_, prompt, wanted.sample_index, seed, f"answer {wanted.sample_index}", "stop", 8, 3, -1.0
    )


def source_applications(
    recipe: Recipe, served: Iterable[Served], holdings: Holdings
) -> dict[str, serve.Application]:
    """In place of vLLM's applications: the same bundles, nothing in them."""
    return {
        source_application_name(recipe.name, model.name): serve.deployment(
            Source,
            name="Source",
            num_replicas=model.replicas,
            ray_actor_options={"num_cpus": 0},
            placement_group_bundles=[
                {"CPU": 0.01, "GPU": bundle["GPU"]}
                for bundle in _bundles(model.engine, on_cpu=False)
            ],
            placement_group_strategy="STRICT_PACK",
        ).bind()
        for model in served
    }


def reward_applications(recipe: Recipe, holdings: Holdings) -> dict[str, serve.Application]:
    """In place of the reward model's application: one GPU a replica, nothing on it."""
    options = {"num_cpus": 0, "num_gpus": 1}
    return {
        reward_application_name(recipe.name, name): serve.deployment(
            Reward, name="Reward", num_replicas=reward.replicas, ray_actor_options=options
        ).bind()
        for name, reward in recipe.rewards.items()
    }


def _watch(seen: list[dict[str, Any]], done: threading.Event) -> None:
    while not done.wait(0.25):
        if not ray.is_initialized():
            continue
        with contextlib.suppress(Exception):  # Ray or Serve is starting or ending
            free = ray.available_resources().get("GPU", 0.0)
            apps = serve.status().applications
            running = sorted(n for n, app in apps.items() if app.status.value == "RUNNING")
            total = ray.cluster_resources()["GPU"]
            seen.append({"at": time.time(), "free": free, "total": total, "running": running})


def main() -> None:
    """Run stages of a recipe and write down what was seen: RECIPE FILE STAGE..."""
    answering.source_applications = source_applications
    answering.reward_applications = reward_applications
    seen: list[dict[str, Any]] = []
    done = threading.Event()
    threading.Thread(target=_watch, args=(seen, done), daemon=True).start()
    _, recipe, file, *stages = sys.argv
    run_recipe(load_recipe(recipe), stages, Progress(Console()))
    done.set()
    Path(file).write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
