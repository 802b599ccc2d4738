"""Runs a recipe on declared GPUs and writes down, second by second, what Ray says of them.

There is no GPU here, so what would run on one is replaced at its border: a source that answers
after a while and a reward model that gives a number, each in the deployment of the real one with
all its options. Plan, waves, Serve, Ray Data and store are the product's.
"""

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.util import placement_group_table
from rich.console import Console

from fusion.identity import response_id, sampling_seed
from fusion.recipe_file import load_recipe
from fusion.rewards.judgement import Judgement
from fusion.run import Run
from jobs import models
from jobs.progress import Progress
from jobs.run import run_recipe
from services.answers import Answer, Finished, Manner, SampleRequest, Wanted
from services.reward import reward_application
from services.source import source_application

SAMPLE_S, SCORE_S = 15.0, 0.4
WINDOW = 256


class Source:
    """Answers every call after a while."""

    async def sample(
        self, requests: Sequence[SampleRequest], manner: Manner
    ) -> AsyncIterator[Finished]:
        yield Finished([], WINDOW)
        await asyncio.sleep(SAMPLE_S)
        answers = [_answer(r.prompt_id, w, manner.source_key) for r in requests for w in r.wanted]
        yield Finished(answers, WINDOW)


class Reward:
    """Gives every answer the same reward."""

    def score(self, conversations: Sequence[Any]) -> list[Judgement]:
        time.sleep(SCORE_S)
        return [Judgement(0.5)] * len(conversations)


def _answer(prompt: str, wanted: Wanted, key: str) -> Answer:
    id_ = response_id(prompt, key, wanted.sample_index)
    seed = sampling_seed(id_, wanted.draw)
    return Answer(
        id_, prompt, wanted.sample_index, seed, f"answer {wanted.sample_index}", "stop", 8, 3, -1.0
    )


def _with(stand_in: type, real: Callable[..., serve.Application]) -> Callable[..., Any]:
    """Makes the application that `real` makes, with another class in its deployment."""

    def application(*arguments: Any, **options: Any) -> serve.Application:
        deployment = real(*arguments, **options)._bound_deployment
        return deployment.options(func_or_class=stand_in).bind()

    return application


def _watch(run: Run, seen: list[dict[str, Any]], done: threading.Event) -> None:
    while not done.wait(0.25):
        if not ray.is_initialized():
            continue
        with contextlib.suppress(Exception):  # Ray or Serve is starting or ending
            apps = serve.status().applications
            seen.append(
                {
                    "at": time.time(),
                    "total": ray.cluster_resources()["GPU"],
                    "running": sorted(n for n, a in apps.items() if a.status.value == "RUNNING"),
                    "groups": _groups(),
                    "num_answers": run.shared("responses").num_rows,
                    "num_scores": run.shared("scores").num_rows,
                }
            )


def _groups() -> list[tuple[str, dict[str, float]]]:
    """The application of each placement group that has its place, and its GPUs by node."""
    groups = []
    for group in placement_group_table().values():
        if group["state"] == "CREATED":
            gpus: Counter[str] = Counter()
            for number, node in group["bundles_to_node_id"].items():
                gpus[node] += group["bundles"][number].get("GPU", 0)
            groups.append((group["name"].split("::")[1].split("#")[0], dict(gpus)))
    return groups


def main() -> None:
    """Run stages of a recipe and write down what was seen: RECIPE OUT STAGE..."""
    models.source_application = _with(Source, source_application)
    models.reward_application = _with(Reward, reward_application)
    seen: list[dict[str, Any]] = []
    done = threading.Event()
    _, file, out, *stages = sys.argv
    recipe = load_recipe(file)
    watching = threading.Thread(target=_watch, args=(Run(recipe), seen, done), daemon=True)
    shutdown = ray.shutdown

    def end() -> None:
        """Who asks Ray while it ends brings the process down."""
        done.set()
        watching.join()
        shutdown()

    ray.shutdown = end
    watching.start()
    run_recipe(recipe, stages, Progress(Console()))
    Path(out).write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
