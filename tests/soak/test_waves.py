"""Sources that exceed the cluster's (declared) GPUs: the planned waves, seen in Ray's own state."""

import json
import os
import subprocess
import sys
from itertools import groupby, pairwise
from pathlib import Path

import pytest
import yaml

from cluster.connection import holdings_of
from cluster.nodes import Node
from fusion.recipe_file import load_recipe
from jobs.models import waves_of
from services.source import Served

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "rehearsal" / "models"
GPUS = {"llama": 4, "gemma": 2, "mistral": 4, "qwen": 1}
MOST_IDLE_S = 5


def _recipe(folder: Path) -> Path:
    rows = [json.dumps({"q": f"question {i}"}) for i in range(256)]
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    sources = [
        {
            "name": name,
            "model": str(MODELS / name),
            "replicas": 1,
            "engine": {"tensor_parallel_size": gpus},
        }
        for name, gpus in GPUS.items()
    ]
    recipe = {
        "name": "waves",
        "storage": str(folder / "runs"),
        "target": {"model": str(MODELS / "target")},
        "evaluation": {"sampling": {"max_tokens": 64}},
        "sources": sources,
        "reward": {"model": str(MODELS / "reward")},
        "datasets": [
            {
                "name": "d",
                "path": "prompts.jsonl",
                "domain": "instruction",
                "fields": {"prompt": "q"},
            }
        ],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def seen(ray_cluster, tmp_path_factory):
    """The planned waves, and what Ray said while the run was on."""
    recipe = _recipe(tmp_path_factory.mktemp("waves"))
    for _ in range(2):
        ray_cluster.add_worker("--num-cpus=4", "--num-gpus=4")
    out = recipe.parent / "seen.json"
    script = Path(__file__).with_name("waves_run.py")
    environment = {
        **os.environ,
        **ray_cluster.environment,
        "RAY_ADDRESS": f"127.0.0.1:{ray_cluster.gcs}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, str(script), str(recipe), str(out), "ingest", "sample", "score"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    loaded = load_recipe(recipe)
    nodes = holdings_of([Node(name, 4, 8, gpus=4) for name in ("one", "two")])
    planned = waves_of(loaded, [Served.of(s) for s in loaded.sources], nodes)
    waves = [{f"waves-source-{model.name}" for model in wave} for wave in planned.waves]
    return waves, json.loads(out.read_text())


def test_sources_are_up_in_the_planned_waves_and_in_no_other(seen):
    waves, states = seen
    ups = [frozenset(n for n in s["running"] if "-source-" in n) for s in states]
    changes = [up for up, _ in groupby(ups) if up]
    whole = [up for up in changes if set(up) in waves]
    assert [set(up) for up in dict.fromkeys(whole)] == waves
    assert all(any(set(up) <= wave for wave in waves) for up in changes)


def test_gpus_are_never_oversubscribed_and_a_whole_wave_holds_all_that_it_was_given(seen):
    waves, states = seen
    assert len(waves) == 2
    for state in states:
        up = {n for n in state["running"] if "-source-" in n}
        if up in waves:
            wanted = sum(GPUS[name.rpartition("-")[2]] for name in up)
            assert 0 <= state["free"] <= state["total"] - wanted


def test_gpus_do_not_idle_between_waves(seen):
    _, states = seen
    held = [state["at"] for state in states if state["free"] < state["total"]]
    assert len(held) > 20
    assert max(later - earlier for earlier, later in pairwise(held)) < MOST_IDLE_S


def test_the_reward_model_scores_a_wave_while_the_next_one_is_up(seen):
    _, states = seen
    assert any(
        "waves-reward" in s["running"] and any("-source-" in n for n in s["running"])
        for s in states
    )
