"""A job of a real cluster that loses a worker node while it samples."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.integration.watched import HERE, WatchedRun, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PROMPTS = {"instruction-train": 60, "math-train": 50, "code-train": 20, "chinese-train": 20}
WANTED = 4 * (60 + 50 + 20) + 20 + 4 * 5


@pytest.fixture(scope="module")
def run(ray_cluster, tmp_path_factory):
    """The run, after a job that lost the worker with its source when the first part was there."""
    return sampled(ray_cluster, tmp_path_factory.mktemp("loss"), ray_cluster.lose)


def sampled(ray_cluster, folder: Path, lose: Callable[..., None]) -> WatchedRun:
    """A run that was sampled by a job while the worker with its source was lost."""
    run = prepared(ray_cluster, folder)
    with run.watching():
        job = submitted(ray_cluster, run)
        wait_until(lambda: run.committed or job.poll() is not None)
        lose("ServeReplica", job, timeout_s=1)
        output, _ = job.communicate(timeout=400)
    assert job.returncode == 0, output[-6000:]
    return run


def prepared(ray_cluster, folder: Path) -> WatchedRun:
    """A run of one source, and two workers of which each has room for it."""
    limits = [{"name": name, "limit": limit} for name, limit in PROMPTS.items()]
    recipe = folder / "recipe.yaml"
    changes = {"extends": str(HERE / "sampling.yaml"), "name": "loss", "datasets": limits}
    recipe.write_text(yaml.safe_dump(changes))
    run = WatchedRun(folder / "runs", ("ingest", "sample"), recipe)
    ray_cluster.environment.update(run.environment)
    for _ in range(2):
        ray_cluster.add_worker("--num-cpus=3")
    ray_cluster.wait_for_workers(2)
    return run


def submitted(ray_cluster, run: WatchedRun) -> subprocess.Popen[str]:
    """The run as a job that is followed."""
    stages = [f"--stage={stage}" for stage in run.stages]
    return ray_cluster.submit(run.recipe, *stages, f"--set=storage={run.storage}")


def check_whole(run: WatchedRun) -> None:
    """Every answer wanted is there once, and the manifest knows of it."""
    ids = run.stored_ids("responses", "response_id")
    assert len(ids) == len(set(ids)) == WANTED
    counts = json.loads((run.storage / "loss" / "manifests" / "sample.json").read_text())["counts"]
    assert (counts["entered"], counts["results"]) == (WANTED, WANTED)


def test_every_wanted_answer_is_there_once(run):
    check_whole(run)


def test_what_was_committed_before_the_loss_is_not_generated_again(run):
    taken = [id_ for _, id_ in run.taken()]
    assert len(taken) > len(set(taken)) == WANTED, "the worker was lost after the last answer"
    assert not run.generated_again()
