"""Nodes that come when a wave needs them and go afterwards, by Ray's own autoscaler."""

import json
import os
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)

from tests.conftest import RayCluster

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "rehearsal" / "models"
GPUS_A_NODE = 4
PROMPTS = 256
# Fields of a cluster's configuration that Ray wants to be there.
NEEDED = ("setup_commands", "head_setup_commands", "worker_setup_commands", "cluster_synced_files")


@pytest.fixture
def autoscaled(tmp_path):
    """A head alone, under Ray's autoscaler, which may start two nodes with GPUs."""
    cluster = RayCluster()
    node = {"CPU": 8, "GPU": GPUS_A_NODE, "object_store_memory": 200_000_000}
    config = {
        **{key: [] for key in NEEDED},
        "file_mounts": {},
        "cluster_name": "fake",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "head_node_type": "ray.head.default",
        "provider": {
            # by its class: of the type fake_multinode Ray's wheel lacks the defaults
            "type": "external",
            "module": f"{FakeMultiNodeProvider.__module__}.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": f"127.0.0.1:{cluster.gcs}",
        },
        "available_node_types": {
            "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
            "gpus": {"resources": node, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
    }
    file = tmp_path / "autoscaler.json"
    file.write_text(json.dumps(config))
    cluster.head_options = (f"--autoscaling-config={file}",)
    cluster.environment |= {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    try:
        cluster.start_head()
        cluster.wait_for_workers(0)
        yield cluster
    finally:
        cluster.stop()


def _recipe(folder: Path) -> Path:
    rows = [json.dumps({"q": f"question {i}"}) for i in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    small = {"tensor_parallel_size": GPUS_A_NODE // 2}
    large = {"tensor_parallel_size": GPUS_A_NODE}
    sources = [
        {"name": "gemma", "model": str(MODELS / "gemma"), "replicas": 1, "engine": small},
        {"name": "llama", "model": str(MODELS / "llama"), "replicas": 2, "engine": large},
    ]
    recipe = {
        "name": "waves",
        "storage": str(folder / "runs"),
        "target": {"model": str(MODELS / "target")},
        "evaluation": {"sampling": {"max_tokens": 64}},
        "sources": sources,
        "datasets": [
            {
                "name": "d",
                "path": "prompts.jsonl",
                "domain": "chinese",
                "fields": {"prompt": "q"},
            }
        ],
        "cluster": {"grows_to": f"2x{GPUS_A_NODE}xH100-80GB", "sources_at_once": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def test_each_wave_gets_the_nodes_it_needs_and_they_go_after_the_last(autoscaled, tmp_path):
    """The first wave wants half a node, the second two nodes."""
    recipe, out = _recipe(tmp_path), tmp_path / "seen.json"
    script = Path(__file__).with_name("waves_run.py")
    environment = {
        **os.environ,
        **autoscaled.environment,
        "RAY_ADDRESS": f"127.0.0.1:{autoscaled.gcs}",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(script), str(recipe), str(out), "ingest", "sample"]
    workers = [len(autoscaled.alive()) - 1]
    log = (tmp_path / "log").open("w+")
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log) as run:
        try:
            while run.poll() is None:
                workers.append(len(autoscaled.alive()) - 1)
                time.sleep(0.5)
        finally:
            run.kill()
    log.seek(0)
    assert run.returncode == 0, log.read()[-4000:]
    deadline = time.monotonic() + 60
    while workers[-1] and time.monotonic() < deadline:
        workers.append(len(autoscaled.alive()) - 1)
        time.sleep(0.5)
    changes = [number for number, _ in groupby(workers)]
    assert changes in ([0, 1, 2, 0], [0, 1, 2, 1, 0]), changes
    seen = json.loads(out.read_text())
    for source, nodes in (("gemma", 1), ("llama", 2)):
        gpus = {s["total"] for s in seen if s["running"] == [f"waves-source-{source}"]}
        assert gpus == {nodes * GPUS_A_NODE}
