"""Training through the command line: however it is cut, shared out or killed, the same steps.

beta keeps losses and gradient norms near 1: where a norm is 30, rounding alone exceeds 1e-4.
"""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.training_data import conversations, pairs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
STAGES = ("--stage", "sft", "--stage", "reference", "--stage", "dpo")
# Steps as small as real ones: larger ones make rounding grow from step to step.
COMMON = {
    "max_length": 512,
    "learning_rate": 1.0e-4,
    "precision": "fp32",
    "batch_size": 8,
    "gradient_checkpointing": False,
}
Steps = list[tuple[float, float]]


def write_recipe(folder: Path, **keys: Any) -> Path:
    """A recipe that trains the rehearsal's target on 80 conversations and 80 pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("sft", conversations(80)), ("dpo", pairs(80))):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    recipe = {
        "extends": str(ROOT / "rehearsal" / "recipe.yaml"),
        "name": "training",
        "storage": str(folder / "runs"),
        "sft": {**COMMON, **keys, "data": str(folder / "sft.jsonl"), "epochs": 1},
        "dpo": {
            **COMMON,
            "beta": 0.1,
            "sft_weight": 1.0,
            **keys,
            "data": str(folder / "dpo.jsonl"),
            "epochs": 2,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def command(recipe: Path) -> list[str]:
    return [sys.executable, "-m", "jobs", "run", str(recipe), *STAGES]


def train(recipe: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(recipe), cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def trajectory(recipe: Path, stage: str) -> Steps:
    """Loss and gradient norm of every step, as the stage's log has them."""
    log = recipe.parent / "runs" / "training" / "logs" / f"{stage}.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [(row["loss"], row["grad_norm"]) for row in rows if "grad_norm" in row]


def assert_same(left: Path, right: Path) -> None:
    for stage in ("sft", "dpo"):
        pairs = zip(trajectory(left, stage), trajectory(right, stage), strict=True)
        for number, (one, other) in enumerate(pairs, start=1):
            where = f"{stage}, step {number}"
            assert one[0] == pytest.approx(other[0], abs=1e-4), where
            # norms reach tens, where float32 itself is coarser than 1e-4
            assert one[1] == pytest.approx(other[1], abs=1e-4, rel=1e-4), where


def wait_for_step(recipe: Path, number: int, running: subprocess.Popen) -> None:
    """Wait until dpo has saved a step."""
    folder = recipe.parent / "runs" / "training" / "checkpoints"
    deadline = time.monotonic() + 300
    while not list(folder.glob(f"dpo-*/work/steps/{number:08d}/complete.json")):
        assert running.poll() is None, "it ended before it could be disturbed"
        assert time.monotonic() < deadline, "dpo did not come so far"
        time.sleep(0.05)


def kill_in_dpo(recipe: Path, after_steps: int) -> list[dict]:
    """Start the command and kill it, with all its processes, once dpo has saved a step.

    Returns the logged steps that the last saved one holds.
    """
    steps = recipe.parent / "runs" / "training" / "checkpoints"
    with subprocess.Popen(command(recipe), cwd=ROOT) as first:
        try:
            wait_for_step(recipe, after_steps, first)
        finally:
            driver = psutil.Process(first.pid)
            for process in [driver, *driver.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
    last = sorted(steps.glob("dpo-*/work/steps/*/complete.json"))[-1].parent
    return json.loads((last / "trainer_state.json").read_text())["log_history"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """One worker, rows in their order, all of a step in one pass, never killed."""
    recipe = write_recipe(
        tmp_path_factory.mktemp("undisturbed"), batching="padded", micro_batch_tokens=100_000
    )
    train(recipe)
    return recipe


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory) -> Path:
    """Two workers, short packed passes, killed after step 8 of dpo; then one worker goes on."""
    keys = {"micro_batch_tokens": 300, "save_steps": 4}
    folder = tmp_path_factory.mktemp("disturbed")
    saved = kill_in_dpo(write_recipe(folder, workers=2, **keys), after_steps=8)
    (folder / "saved.json").write_text(json.dumps(saved))
    recipe = write_recipe(folder, workers=1, **keys)
    train(recipe)
    return recipe


def test_workers_batching_and_a_kill_change_no_step(undisturbed, disturbed):
    assert len(trajectory(undisturbed, "dpo")) == 20
    assert_same(undisturbed, disturbed)


def test_a_killed_training_goes_on_where_it_stopped(disturbed):
    """The steps saved before the kill stand in the log as they were, their speed included."""
    log = disturbed.parent / "runs" / "training" / "logs" / "dpo.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in rows if "grad_norm" in row] == list(range(1, 21))
    saved = json.loads((disturbed.parent / "saved.json").read_text())
    assert 8 <= len(saved) < 20
    assert rows[: len(saved)] == saved


def test_the_final_model_loads_and_nothing_of_the_work_is_left(disturbed):
    from transformers import AutoModelForCausalLM

    (folder,) = (disturbed.parent / "runs" / "training" / "checkpoints").glob("dpo-*")
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 100_000
    assert not (folder / "work").exists()


@pytest.mark.soak
def test_a_finished_run_is_not_trained_again(disturbed):
    checkpoints = disturbed.parent / "runs" / "training" / "checkpoints"
    before = {p: p.stat().st_mtime_ns for p in checkpoints.rglob("*.safetensors")}
    (checkpoints.parent / "manifests" / "dpo.json").unlink()
    train(disturbed)
    assert {p: p.stat().st_mtime_ns for p in checkpoints.rglob("*.safetensors")} == before
    assert (checkpoints.parent / "manifests" / "dpo.json").exists()


@pytest.mark.soak
def test_a_worker_that_dies_is_started_again_from_the_last_step(undisturbed, tmp_path):
    recipe = write_recipe(tmp_path, workers=2, micro_batch_tokens=300, save_steps=4)
    with subprocess.Popen(command(recipe), cwd=ROOT) as running:
        wait_for_step(recipe, 4, running)
        children = psutil.Process(running.pid).children(recursive=True)
        next(p for p in children if "RayTrainWorker" in " ".join(p.cmdline())).kill()
        assert running.wait(timeout=300) == 0
    assert_same(undisturbed, recipe)


@pytest.mark.soak
def test_the_rest_of_the_workers_goes_on_when_a_node_is_lost(undisturbed, ray_cluster, tmp_path):
    nodes = []
    for number in range(2):
        own = tmp_path / f"node-{number}"  # nodes of a cluster share no temporary files
        own.mkdir()
        around = ("env", f"TMPDIR={own}")
        nodes.append(ray_cluster.add_worker("--num-cpus=1", around=around))
    ray_cluster.wait_for_workers(2)
    keys = {"micro_batch_tokens": 300, "save_steps": 4}
    recipe = write_recipe(tmp_path, workers=2, min_workers=1, **keys)
    job = ray_cluster.submit(recipe, *STAGES)
    wait_for_step(recipe, 8, job)
    ray_cluster.kill(nodes[1])
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output[-6000:]
    assert_same(undisturbed, recipe)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("strategy", "before", "after"),
    [("zero2", 2, 2), ("zero3", 2, 2), ("fsdp2", 2, 1), ("fsdp2", 1, 2)],
)
def test_strategies_make_the_same_steps_also_after_a_kill(
    undisturbed, tmp_path, strategy, before, after
):
    """FSDP2 goes on with another number of workers too."""
    keys = {"strategy": strategy, "micro_batch_tokens": 300, "save_steps": 4}
    kill_in_dpo(write_recipe(tmp_path, workers=before, **keys), after_steps=8)
    recipe = write_recipe(tmp_path, workers=after, **keys)
    train(recipe)
    assert_same(undisturbed, recipe)


@pytest.mark.soak
@pytest.mark.parametrize("batching", ["padded", "bucketed", "packed"])
def test_four_small_passes_are_one_large(undisturbed, tmp_path, batching):
    recipe = write_recipe(tmp_path, batching=batching, micro_batch_tokens=150)
    train(recipe)
    assert_same(undisturbed, recipe)
