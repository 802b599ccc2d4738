"""A whole short run as a job of a real cluster that loses a node, or its head, at every stage."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from fusion.run import STAGES

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]

ROOT = Path(__file__).parents[2]
SHORT = ROOT / "tests" / "integration" / "short_run.yaml"
TRAIN, HELD_OUT, CHINESE = 24 + 24 + 16, 4 * 6, 8
WANTED = 2 * (3 * TRAIN + CHINESE + HELD_OUT) + 3 * HELD_OUT


def _recipe(folder: Path) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"extends": str(SHORT), "name": "short"}))
    return folder / "recipe.yaml"


def _wait(condition: Callable[[], bool], job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 900
    while not condition() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert job.poll() is None, job.communicate()[0][-6000:]


def _check_whole(storage: Path) -> None:
    """Every stage's manifest balances, every wanted answer is stored once."""
    for stage in STAGES:
        counts = json.loads((storage / "short" / "manifests" / f"{stage}.json").read_text())[
            "counts"
        ]
        left = counts["results"] + sum(counts["dropped"].values())
        assert counts["entered"] == left + sum(counts["quarantined"].values()), stage
    parts = (storage / "store" / "responses").rglob("*.parquet")
    ids = [i for part in parts for i in pq.read_table(part)["response_id"].to_pylist()]
    assert len(ids) == len(set(ids)) == WANTED


def _workers(cluster) -> list[subprocess.Popen[bytes]]:
    resources = '--resources={"sandbox": 4}'
    for left in cluster.workers:
        cluster.kill(left)
    cluster.workers.clear()
    cluster.wait_for_workers(0)
    return [cluster.add_worker("--num-cpus=12", resources) for _ in range(3)]


@pytest.mark.parametrize(
    ("at_work", "goes_on_by_itself"), [("Source", True), ("_Rate", True), ("RayTrain", False)]
)
def test_a_run_survives_the_loss_of_a_node_that_is_at_work(
    ray_cluster, tmp_path, at_work, goes_on_by_itself
):
    workers = _workers(ray_cluster)
    recipe, storage = _recipe(tmp_path), tmp_path / "runs"
    command = (recipe, "--set", f"storage={storage}")
    job = ray_cluster.submit(*command)
    parts = storage / "store" / "responses"

    def is_at_work() -> bool:
        has_begun = at_work != "Source" or any(parts.rglob("*.parquet"))
        return has_begun and any(ray_cluster.running(w, at_work) for w in workers)

    _wait(is_at_work, job)
    ray_cluster.kill(next(w for w in workers if ray_cluster.running(w, at_work)))
    output, _ = job.communicate(timeout=1200)
    if not goes_on_by_itself and job.returncode:
        assert "Traceback" not in output
        again = ray_cluster.submit(*command)
        output, _ = again.communicate(timeout=1200)
        job = again
    assert job.returncode == 0, output[-6000:]
    _check_whole(storage)


def test_a_run_goes_on_after_the_head_was_lost_and_the_job_submitted_again(ray_cluster, tmp_path):
    _workers(ray_cluster)
    recipe, storage = _recipe(tmp_path), tmp_path / "runs"
    command = (recipe, "--set", f"storage={storage}")
    job = ray_cluster.submit(*command)
    parts = storage / "store" / "responses"
    _wait(lambda: any(parts.rglob("*.parquet")), job)
    ray_cluster.kill_all()
    job.kill()
    ray_cluster.start_head()
    _workers(ray_cluster)
    time.sleep(65)  # the lease of the driver that was lost with the head
    again = ray_cluster.submit(*command)
    output, _ = again.communicate(timeout=1200)
    assert again.returncode == 0, output[-6000:]
    _check_whole(storage)
