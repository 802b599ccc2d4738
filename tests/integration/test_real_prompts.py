"""Public prompts as published: ingested, answered, scored and selected, and the yields say so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

pytestmark = [pytest.mark.integration, pytest.mark.timeout(5400)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DATA = Path(os.environ.get("CRUCIBLE_DATA", ROOT.parent / "shared" / "data"))
ROWS = {"mt-bench": 80, "arena-hard": 500, "gsm8k": 1319, "humaneval": 164, "cmath": 600}
STAGES = ("ingest", "sample", "score", "select", "report")

if not DATA.is_dir():
    pytest.skip(f"the public data is not at {DATA}; set CRUCIBLE_DATA", allow_module_level=True)


def _run(recipe: Path, storage: Path) -> Path:
    values = {"data": DATA, "models": ROOT / "rehearsal" / "models", "storage": storage}
    parameters = [f"--set={name}={value}" for name, value in values.items()]
    stages = [f"--stage={stage}" for stage in STAGES]
    command = [sys.executable, "-m", "jobs", "run", str(recipe), *stages, *parameters]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=5000)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return storage / "real-prompts"


def _manifest(run: Path, stage: str) -> dict:
    return json.loads((run / "manifests" / f"{stage}.json").read_text())


def _slice(folder: Path, limit: int) -> Path:
    changes = {
        "extends": str(HERE / "real_prompts.yaml"),
        "sources": [{"name": "gemma", "domains": []}, {"name": "qwen", "domains": []}],
        "datasets": [{"name": name, "limit": limit} for name in ROWS],
    }
    path = folder / "slice.yaml"
    path.write_text(yaml.safe_dump(changes))
    return path


def _check(run: Path, num_prompts: int) -> None:
    assert _manifest(run, "ingest")["counts"]["entered"] == num_prompts
    sampled = _manifest(run, "sample")["counts"]
    assert set(sampled["dropped"]) <= {"no_prompt"}  # of gpt-4's answers, in a slice
    assert sampled["results"] > 0.8 * (sampled["entered"] - sum(sampled["dropped"].values()))
    assert set(sampled["quarantined"]) <= {"too_long", "looping", "empty"}
    selected = _manifest(run, "select")
    dropped = selected["counts"]["dropped"]
    assert sum(dropped.values()) + selected["counts"]["results"] == num_prompts
    assert dropped["no_correct_answer"] > 0  # tiny models answer such prompts badly
    assert (run / "report.html").stat().st_size > 100_000


def test_a_slice_of_every_published_file_goes_through(tmp_path):
    run = _run(_slice(tmp_path, 6), tmp_path / "runs")
    _check(run, 6 * len(ROWS))
    imported = list((tmp_path / "runs/store/responses").glob("gpt-4-*/*.parquet"))
    assert sum(pq.read_metadata(part).num_rows for part in imported) == 6


@pytest.mark.soak
def test_all_published_prompts_go_through(tmp_path):
    _check(_run(HERE / "real_prompts.yaml", tmp_path / "runs"), sum(ROWS.values()))
