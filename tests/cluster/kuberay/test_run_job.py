"""The RayJob's entrypoint and runtime environment, run by `ray job submit` on a real cluster."""

import json
import secrets
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from tests.cluster.kuberay.rendered import (
    ROOT,
    Object,
    cluster_specs,
    groups,
    only,
    overlay,
    recipe_file,
)
from tests.docker.image import stages

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True)
class Cluster:
    """A head that asks for a token, and a worker whose agent's port is known."""

    dashboard: str
    gcs: str
    agent_port: int
    environment: dict[str, str]


@pytest.fixture(scope="module")
def cluster(ray_cluster) -> Cluster:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray_cluster.add_worker("--num-cpus=4", f"--dashboard-agent-listen-port={port}")
    ray_cluster.wait_for_workers(1)
    gcs = f"127.0.0.1:{ray_cluster.gcs}"
    return Cluster(ray_cluster.address, gcs, port, ray_cluster.environment)


def _job() -> Object:
    return only(overlay("kind"), "RayJob")["spec"]


def _submit(cluster: Cluster, recipe: Path, *more: str) -> subprocess.CompletedProcess[str]:
    entrypoint = [
        str(recipe) if word == "/etc/crucible/recipe.yaml" else word
        for word in shlex.split(_job()["entrypoint"])
    ]
    assert str(recipe) in entrypoint
    environment = yaml.safe_load(_job()["runtimeEnvYAML"])
    environment["env_vars"]["PYTHONPATH"] = str(ROOT)  # the image has it installed
    command = [RAY, "job", "submit", "--address", cluster.dashboard]
    command += ["--runtime-env-json", json.dumps(environment), "--", *entrypoint, *more]
    return subprocess.run(
        command, env=cluster.environment, capture_output=True, text=True, timeout=200, cwd="/"
    )


def _recipe(folder: Path) -> Path:
    path = recipe_file(overlay("kind"), folder)
    path.write_text(path.read_text().replace("/storage/", f"{folder}/"))
    return path


def test_the_job_runs_as_the_manifest_says_and_its_result_is_stored(cluster, tmp_path):
    done = _submit(cluster, _recipe(tmp_path), "--stage", "ingest")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "succeeded" in done.stdout
    manifest = json.loads((tmp_path / "runs/rehearsal/manifests/ingest.json").read_text())
    assert manifest["counts"]["results"] > 1000


def test_bad_input_fails_the_job_with_its_one_sentence(cluster, tmp_path):
    done = _submit(cluster, _recipe(tmp_path), "--stage", "ingset")
    assert done.returncode != 0
    assert "There is no stage ingset" in done.stdout


def test_probes_of_the_manifests_answer_without_the_token_and_the_job_api_does_not(cluster):
    probes = {
        probe["httpGet"]["path"]
        for spec in cluster_specs(overlay("kind")).values()
        for group in groups(spec)
        for container in group["template"]["spec"]["containers"]
        for name, probe in container.items()
        if name.endswith("Probe")
    }
    assert probes
    for path in probes:
        assert httpx.get(f"http://127.0.0.1:{cluster.agent_port}{path}").status_code == 200
    assert httpx.get(f"{cluster.dashboard}/api/jobs/").status_code == 401


def test_the_image_s_health_check_passes_with_the_token_and_fails_with_another(cluster):
    (check,) = [i for i in stages()["cpu"] if i.name == "HEALTHCHECK"]
    assert check.words[0] == "ray"
    environment = {**cluster.environment, "RAY_ADDRESS": cluster.gcs}
    assert subprocess.run([RAY, *check.words[1:]], env=environment).returncode == 0
    wrong = {**environment, "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    assert subprocess.run([RAY, *check.words[1:]], env=wrong).returncode != 0
