"""The rehearsal in full: the fused target beats what it began as, and every source.

CRUCIBLE_REHEARSAL names the storage of a rehearsal that has run; without it one is run here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
SOURCES = ("llama", "gemma", "mistral", "qwen")


@pytest.fixture(scope="module")
def accuracy(tmp_path_factory):
    """The accuracy part of result.json after a full run."""
    storage = os.environ.get("CRUCIBLE_REHEARSAL") or _run(tmp_path_factory.mktemp("rehearsal"))
    return json.loads((Path(storage) / "rehearsal" / "result.json").read_text())["accuracy"]


def _run(storage: Path) -> Path:
    recipe = storage / "recipe.yaml"
    extends = str(ROOT / "rehearsal" / "recipe.yaml")
    recipe.write_text(yaml.safe_dump({"extends": extends, "storage": str(storage)}))
    command = [sys.executable, "-m", "jobs", "run", str(recipe)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return storage


def test_at_least_400_prompts_are_held_out(accuracy):
    assert accuracy["dpo"]["average"]["n"] >= 400


def test_each_stage_of_training_helps(accuracy):
    base, sft, dpo = (accuracy[m]["average"]["value"] for m in ("base", "sft", "dpo"))
    assert base < sft
    assert dpo >= sft + 0.03


def test_the_gain_over_the_base_is_beyond_chance(accuracy):
    assert accuracy["base"]["average"]["high"] < accuracy["dpo"]["average"]["low"]


@pytest.mark.parametrize("source", SOURCES)
def test_the_fused_target_beats_the_source(accuracy, source):
    assert accuracy["dpo"]["average"]["value"] > accuracy[source]["average"]["value"]
