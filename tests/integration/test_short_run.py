"""The whole fusion, cut short, through the command line: real Ray, vLLM, TRL and files."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from fusion.run import STAGES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MODELS = {"base", "sft", "dpo", "llama", "mistral"}


RECIPE = HERE / "short_run.yaml"


def _command(storage: Path, *more: str, recipe: Path = RECIPE) -> list[str]:
    command = [sys.executable, "-m", "jobs", "run", str(recipe)]
    return [*command, "--set", f"storage={storage}", *more]


def _run(storage: Path, *more: str, recipe: Path = RECIPE) -> subprocess.CompletedProcess[str]:
    command = _command(storage, *more, recipe=recipe)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)


def _parts(storage: Path) -> dict[str, int]:
    folder = storage / "store" / "responses"
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*.parquet")}


def _response_ids(storage: Path) -> list[str]:
    parts = (storage / "store" / "responses").rglob("*.parquet")
    return [i for part in parts for i in pq.read_table(part)["response_id"].to_pylist()]


@dataclass(frozen=True)
class Interrupted:
    """How a run that got Ctrl-C while its sources came up ended."""

    returncode: int
    seconds: float
    left: list[psutil.Process]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> tuple[Path, Interrupted]:
    """The storage of a run that was interrupted before its first answer, and how it ended."""
    storage = tmp_path_factory.mktemp("runs")
    with subprocess.Popen(_command(storage), cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        assert any("starting llama" in line for line in run.stdout)
        time.sleep(5)
        family = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGINT)
        started = time.monotonic()
        returncode = run.wait(timeout=120)
    _, left = psutil.wait_procs(family, timeout=10)
    return storage, Interrupted(returncode, time.monotonic() - started, left)


@pytest.fixture(scope="module")
def storage(interrupted) -> Path:
    """The storage of a run that was interrupted, then killed while it sampled, then finished."""
    storage, _ = interrupted
    with subprocess.Popen(_command(storage), cwd=ROOT) as first:
        deadline = time.monotonic() + 600
        while not _parts(storage) and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        _kill_tree(first.pid)
    finished = _run(storage)
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-4000:]
    return storage


def _kill_tree(pid: int) -> None:
    """The driver, Ray's daemons, replicas and engines at one stroke, as a power cut would."""
    driver = psutil.Process(pid)
    for process in [driver, *driver.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def test_ctrl_c_ends_cleanly(interrupted):
    _, end = interrupted
    assert end.returncode == 130
    assert end.seconds < 60
    assert not end.left


def test_every_stage_leaves_a_manifest_that_balances(storage):
    for stage in STAGES:
        manifest = json.loads((storage / "short" / "manifests" / f"{stage}.json").read_text())
        counts = manifest["counts"]
        left = counts["results"] + sum(counts["dropped"].values())
        assert counts["entered"] == left + sum(counts["quarantined"].values()), stage


def test_every_wanted_answer_is_stored_once_after_a_kill(storage):
    ids = _response_ids(storage)
    train, held_out = 24 + 24 + 16, 4 * 6
    wanted_of_sources = 2 * (3 * train + 8 + held_out)
    wanted_of_checkpoints = 3 * held_out
    assert len(ids) == len(set(ids)) == wanted_of_sources + wanted_of_checkpoints


def test_result_has_every_model_and_domain_with_an_interval(storage):
    result = json.loads((storage / "short" / "result.json").read_text())
    assert set(result["accuracy"]) >= MODELS
    for model in MODELS:
        for domain in ("instruction", "math", "code", "chinese"):
            cell = result["accuracy"][model][domain]
            assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 1
            assert cell["n"] == 6


def test_data_set_loads_and_trains_in_stock_trl_without_conversion(storage):
    from datasets import load_dataset

    pairs = load_dataset(
        "parquet", data_files=str(storage / "short/dataset/preferences/*.parquet"), split="train"
    )
    row = pairs[0]
    assert row["prompt"][-1]["role"] == "user"
    assert [row[side][0]["role"] for side in ("chosen", "rejected")] == ["assistant"] * 2
    assert row["chosen"] != row["rejected"]


def test_final_checkpoint_loads_in_plain_transformers(storage):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (folder,) = (storage / "short" / "checkpoints").glob("dpo-*")
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 100_000
    assert AutoTokenizer.from_pretrained(folder).chat_template


def test_the_same_command_again_generates_and_trains_nothing(storage):
    before = _parts(storage)
    checkpoints = sorted((storage / "short" / "checkpoints").iterdir())
    started = time.monotonic()
    again = _run(storage)
    assert again.returncode == 0, again.stderr[-4000:]
    assert time.monotonic() - started < 60
    assert _parts(storage) == before
    assert sorted((storage / "short" / "checkpoints").iterdir()) == checkpoints


def test_another_margin_selects_again_without_sampling(storage, tmp_path):
    before, pairs = _parts(storage), _num_pairs(storage)
    recipe = tmp_path / "narrow.yaml"
    changes = {"extends": str(RECIPE)}
    margin = {"low": 29.99, "high": 30.0}
    recipe.write_text(yaml.safe_dump(changes | {"name": "short", "selection": {"margin": margin}}))
    again = _run(storage, "--stage", "select", recipe=recipe)
    assert again.returncode == 0, again.stderr[-4000:]
    assert _parts(storage) == before
    assert 0 <= _num_pairs(storage) < pairs


def _num_pairs(storage: Path) -> int:
    parts = (storage / "short" / "dataset" / "preferences").glob("*.parquet")
    return sum(pq.read_metadata(part).num_rows for part in parts)
