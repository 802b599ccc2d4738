"""Sources that exceed the cluster's (declared) GPUs: the planned waves, seen in Ray's own state."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import groupby
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
GPUS_A_NODE = 4
# In each of two waves the small ones come before the one that needs a whole node of two.
GPUS = {"a": 1, "b": 2, "c": 4, "d": 2, "e": 1, "f": 4}
PROMPTS, SAMPLES = 256, 4
MOST_IDLE_S = 15


def _recipe(folder: Path) -> Path:
    rows = [json.dumps({"q": f"question {i}"}) for i in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    sources = [
        {
            "name": name,
            "model": str(MODELS / "llama"),
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
                "samples": SAMPLES,
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
        ray_cluster.add_worker("--num-cpus=8", f"--num-gpus={GPUS_A_NODE}")
    ray_cluster.wait_for_workers(2)
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
    nodes = holdings_of([Node(name, 8, 8, gpus=GPUS_A_NODE) for name in ("one", "two")])
    planned = waves_of(loaded, [Served.of(s) for s in loaded.sources], nodes)
    waves = [{f"waves-source-{model.name}" for model in wave} for wave in planned.waves]
    assert waves == [{f"waves-source-{name}" for name in names} for names in ("abc", "def")]
    assert planned.reward_stays
    return waves, json.loads(out.read_text())


def test_sources_are_up_in_the_planned_waves_and_in_no_other(seen):
    waves, states = seen
    ups = [frozenset(n for n in s["running"] if "-source-" in n) for s in states]
    changes = [up for up, _ in groupby(ups) if up]
    whole = [up for up in changes if set(up) in waves]
    assert [set(up) for up in dict.fromkeys(whole)] == waves
    assert all(any(set(up) <= wave for wave in waves) for up in changes)


def test_every_engine_has_its_gpus_on_one_node_and_no_node_gives_more_than_it_has(seen):
    waves, states = seen
    for state in states:
        used: Counter[str] = Counter()
        for name, gpus in state["groups"]:
            assert list(gpus.values()) == [GPUS.get(name.rpartition("-")[2], 1)]
            used.update(gpus)
        assert all(number <= GPUS_A_NODE for number in used.values())
    most = max(sum(sum(gpus.values()) for _, gpus in state["groups"]) for state in states)
    assert most == sum(GPUS.values()) / len(waves) + 1  # the reward model's


def test_gpus_do_not_idle_between_waves(seen):
    """From an engine's going to the next wave's having all its GPUs."""
    (first, second), states = seen
    placed = [(state["at"], {name for name, _ in state["groups"]}) for state in states]
    gone = max(at for at, names in placed if first & names)
    there = min(at for at, names in placed if second <= names)
    assert there - gone < MOST_IDLE_S


def test_a_wave_is_scored_while_the_next_one_samples(seen):
    (_, second), states = seen
    a_wave = 3 * PROMPTS * SAMPLES
    up = [state for state in states if second <= set(state["running"])]
    scores = [state["num_scores"] for state in up if state["num_answers"] < 2 * a_wave]
    assert scores[0] < a_wave == scores[-1]
