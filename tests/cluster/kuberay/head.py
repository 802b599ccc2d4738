"""A Ray head on this machine, started as KubeRay starts one, on ports of its own."""

import contextlib
import os
import secrets
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

from tests.cluster.kuberay.rendered import ROOT

RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True)
class Head:
    """A Ray head on this machine that asks for a token."""

    address: str
    dashboard: str
    agent_port: int
    environment: dict[str, str]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextlib.contextmanager
def running_head(*, cpus: int) -> Iterator[Head]:
    """A head with so many slots, gone with all its processes at the end."""
    gcs, dashboard, agent, metrics, client = free_ports(5)
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
        command = [RAY, "start", "--head", "--block", f"--port={gcs}", f"--num-cpus={cpus}"]
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
