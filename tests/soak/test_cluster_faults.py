"""A whole short run as a job of a cluster that loses its head, then workers in later stages."""

import json
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
MODELS = {"base", "sft", "dpo", "llama", "mistral"}


def _add_workers(cluster, number: int) -> None:
    for _ in range(number):
        cluster.add_worker("--num-cpus=4", '--resources={"sandbox": 2}')


@pytest.fixture(scope="module")
def storage(ray_cluster, tmp_path_factory) -> Path:
    """The storage of a run that went on after each loss, and the answers kept from the first."""
    folder = tmp_path_factory.mktemp("faults")
    recipe, storage = folder / "recipe.yaml", folder / "runs"
    slow = [{"name": name, "engine": {"max_num_seqs": 8}} for name in ("llama", "mistral")]
    changes = {"extends": str(SHORT), "name": "short", "sources": slow}
    recipe.write_text(yaml.safe_dump(changes))
    command = (recipe, "--set", f"storage={storage}")
    _add_workers(ray_cluster, 3)
    ray_cluster.wait_for_workers(3)

    before = ray_cluster.submit(*command)
    _wait(lambda: before.poll() is not None or _answers(storage))
    assert before.poll() is None, before.communicate()[0][-6000:]
    ray_cluster.kill_all()
    before.kill()
    kept = _answers(storage)
    assert len(kept) < WANTED

    ray_cluster.start_head()
    _add_workers(ray_cluster, 3)
    ray_cluster.wait_for_workers(3)
    job = ray_cluster.submit(*command)
    for at_work in ("ServeReplica:short-reward", "RayTrainWorker"):
        ray_cluster.lose(at_work, job, timeout_s=600)
        _add_workers(ray_cluster, 1)
    output, _ = job.communicate(timeout=1200)
    assert job.returncode == 0, output[-6000:]
    assert set(kept) <= set(_answers(storage))
    return storage


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 600
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def _answers(storage: Path) -> list[str]:
    parts = (storage / "store" / "responses").rglob("*.parquet")
    return [i for part in parts for i in pq.read_table(part)["response_id"].to_pylist()]


def test_every_stage_s_manifest_balances(storage):
    for stage in STAGES:
        manifest = json.loads((storage / "short" / "manifests" / f"{stage}.json").read_text())
        counts = manifest["counts"]
        left = counts["results"] + sum(counts["dropped"].values())
        assert counts["entered"] == left + sum(counts["quarantined"].values()), stage


def test_every_wanted_answer_is_stored_once(storage):
    ids = _answers(storage)
    assert len(ids) == len(set(ids)) == WANTED


def test_every_answer_is_scored_once(storage):
    parts = (storage / "store" / "scores").rglob("*.parquet")
    scores = [row for part in parts for row in pq.read_table(part).to_pylist()]
    ids = [score["score_id"] for score in scores]
    assert len(ids) == len(set(ids))
    assert {s["response_id"] for s in scores if s["reward"] is not None} == set(_answers(storage))


def test_the_result_has_every_model(storage):
    result = json.loads((storage / "short" / "result.json").read_text())
    assert set(result["accuracy"]) >= MODELS
