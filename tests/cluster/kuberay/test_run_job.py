"""The RayJob's entrypoint and runtime environment, run by `ray job submit` on one node."""

import contextlib
import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
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
class Head:
    """A Ray head on this machine that asks for a token."""

    address: str
    dashboard: str
    agent_port: int
    environment: dict[str, str]


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head started as KubeRay starts one, on ports of its own."""
    gcs, dashboard, agent, metrics, client = _free_ports(5)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with tempfile.TemporaryDirectory(
        prefix="ray", dir="/tmp"
    ) as folder:  # sockets want short paths
        command = [RAY, "start", "--head", "--block", f"--port={gcs}", "--num-cpus=4"]
        command += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
        command += [f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}"]
        command += [f"--temp-dir={folder}", "--disable-usage-stats"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as started:
            try:
                api = f"http://127.0.0.1:{dashboard}"
                _wait_until_up(started, f"{api}/api/gcs_healthz")
                yield Head(f"127.0.0.1:{gcs}", api, agent, environment)
            finally:
                _kill_tree(started)


def _kill_tree(started: subprocess.Popen[bytes]) -> None:
    if started.poll() is None:
        first = psutil.Process(started.pid)
        for process in [first, *first.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _wait_until_up(started: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and started.poll() is None:
        try:
            if httpx.get(address, timeout=5).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    pytest.fail(f"the head did not come up; its exit code is {started.poll()}")


def _job() -> Object:
    return only(overlay("kind"), "RayJob")["spec"]


def _submit(head: Head, recipe: Path, *more: str) -> subprocess.CompletedProcess[str]:
    entrypoint = [
        str(recipe) if word == "/etc/crucible/recipe.yaml" else word
        for word in shlex.split(_job()["entrypoint"])
    ]
    assert str(recipe) in entrypoint
    environment = json.dumps(yaml.safe_load(_job()["runtimeEnvYAML"]))
    command = [RAY, "job", "submit", "--address", head.dashboard]
    command += ["--runtime-env-json", environment, "--", *entrypoint, *more]
    return subprocess.run(
        command, env=head.environment, capture_output=True, text=True, timeout=200, cwd="/"
    )


def _recipe(folder: Path) -> Path:
    path = recipe_file(overlay("kind"), folder)
    path.write_text(path.read_text().replace("/storage/", f"{folder}/"))
    return path


def test_the_job_runs_as_the_manifest_says_and_its_result_is_stored(head, tmp_path):
    done = _submit(head, _recipe(tmp_path), "--stage", "ingest")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "succeeded" in done.stdout
    manifest = json.loads((tmp_path / "runs/rehearsal/manifests/ingest.json").read_text())
    assert manifest["counts"]["results"] > 1000


def test_bad_input_fails_the_job_with_its_one_sentence(head, tmp_path):
    done = _submit(head, _recipe(tmp_path), "--stage", "ingset")
    assert done.returncode != 0
    assert "There is no stage ingset" in done.stdout


def test_probes_of_the_manifests_answer_without_the_token_and_the_job_api_does_not(head):
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
        assert httpx.get(f"http://127.0.0.1:{head.agent_port}{path}").status_code == 200
    assert httpx.get(f"{head.dashboard}/api/jobs/").status_code == 401


def test_the_image_s_health_check_passes_with_the_token_and_fails_with_another(head):
    (check,) = [i for i in stages()["cpu"] if i.name == "HEALTHCHECK"]
    assert check.words[0] == "ray"
    environment = {**head.environment, "RAY_ADDRESS": head.address}
    assert subprocess.run([RAY, *check.words[1:]], env=environment).returncode == 0
    wrong = {**environment, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    assert subprocess.run([RAY, *check.words[1:]], env=wrong).returncode != 0
