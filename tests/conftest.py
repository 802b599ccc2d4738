"""What tests share: a real Ray cluster of several nodes, each a raylet that can be killed."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import hypothesis
import psutil
import pytest

ROOT = Path(__file__).parent.parent
START_S = 120

# On a busy machine an example takes long, which says nothing of the code.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


class RayCluster:
    """A head without CPUs for work, and workers; token auth is on."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.folder = Path(tempfile.mkdtemp(prefix="rc-"))  # sockets want a short path
        self.token = secrets.token_hex(16)
        self.gcs, self.dashboard, self.client = (free_port() for _ in range(3))
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": str(START_S),
            # a dead node is missed after seconds, not half a minute
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "5",
        }
        self.head_options: tuple[str, ...] = ()
        self.head: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        """Of the job server."""
        return f"http://{self.host}:{self.dashboard}"

    def start_head(self) -> None:
        """Start the head and wait until its job server answers."""
        self.head = self._start(
            self.host,
            "--head",
            f"--dashboard-host={self.host}",
            f"--port={self.gcs}",
            f"--dashboard-port={self.dashboard}",
            f"--ray-client-server-port={self.client}",
            "--num-cpus=0",
            *self.head_options,
        )
        headers = {"Authorization": f"Bearer {self.token}"}
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.address}/api/jobs/", headers=headers).status_code == 200:
                    return
            time.sleep(0.5)
        pytest.fail("the head did not come up")

    def add_worker(
        self, *options: str, around: tuple[str, ...] = (), host: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a worker node, inside another command and as another host where they are given."""
        address = f"--address={self.host}:{self.gcs}"
        self.workers.append(self._start(host or self.host, address, *options, around=around))
        return self.workers[-1]

    def wait_for_workers(self, number: int) -> None:
        """Wait until so many workers are alive."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if len(self.alive()) == number + 1:
                return
            time.sleep(0.5)
        pytest.fail(f"{len(self.alive())} nodes are alive, not {number} workers and a head")

    def alive(self) -> list[dict[str, object]]:
        """The nodes that the head takes for alive."""
        return [node for node in self._nodes() if node["state"] == "ALIVE"]

    def ends(self) -> list[str]:
        """What the head says of each node that is gone."""
        return [str(node["state_message"]) for node in self._nodes() if node["state"] == "DEAD"]

    def submit(self, *arguments: object, token: str | None = None) -> subprocess.Popen[str]:
        """`crucible submit` with these arguments, against this cluster."""
        environment = {**os.environ, "RAY_AUTH_TOKEN": token or self.token}
        command = [sys.executable, "-m", "jobs", "submit", *map(str, arguments)]
        return subprocess.Popen(
            [*command, "--address", self.address],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def running(self, node: subprocess.Popen[bytes], name: str) -> bool:
        """Whether a process with this in its title runs on a node."""
        for process in psutil.Process(node.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if name in " ".join(process.cmdline()):
                    return True
        return False

    def at_work(
        self, name: str, job: subprocess.Popen[str], *, timeout_s: float
    ) -> subprocess.Popen[bytes]:
        """Wait until a worker runs a process with this in its title; which worker it is."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert job.poll() is None, job.communicate()[0][-6000:]
            for node in self.workers:
                if self.running(node, name):
                    return node
            time.sleep(0.2)
        pytest.fail(f"no worker ran {name} within {timeout_s:.0f} s")

    def lose(self, name: str, job: subprocess.Popen[str], *, timeout_s: float) -> None:
        """Wait until a worker runs a process with this in its title, and kill that worker."""
        node = self.at_work(name, job, timeout_s=timeout_s)
        self.kill(node)
        self.workers.remove(node)

    def tell_to_go(self, node: subprocess.Popen[bytes]) -> None:
        """What Kubernetes does to a node's pod that has to go: SIGTERM, on which Ray drains it."""
        node.terminate()
        node.wait()
        self.workers.remove(node)

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """End a node's raylet and all its workers at one stroke, as a power cut would."""
        self.send(node, signal.SIGKILL)
        node.wait()

    def send(self, node: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Send a signal to all processes of a node."""
        with contextlib.suppress(psutil.NoSuchProcess):
            tree = psutil.Process(node.pid)
            for process in [tree, *tree.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def kill_all(self) -> None:
        """End all nodes, workers first."""
        for node in (*self.workers, self.head):
            if node:
                self.kill(node)
        self.workers.clear()

    def stop(self) -> None:
        """Kill what is left, and remove its files."""
        self.kill_all()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _nodes(self) -> list[dict[str, object]]:
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.address}/api/v0/nodes?detail=True"
        answer = httpx.get(url, headers=headers, timeout=30)
        rows: list[dict[str, object]] = answer.json()["data"]["result"]["result"]
        return rows

    def _start(
        self, host: str, *options: str, around: tuple[str, ...] = ()
    ) -> subprocess.Popen[bytes]:
        # A folder that nodes shared would lose a job's files whenever one of them gets the job.
        own = tempfile.mkdtemp(prefix="r", dir=self.folder)
        command = [
            *around,
            str(Path(sys.executable).parent / "ray"),
            "start",
            "--block",
            f"--node-ip-address={host}",
            f"--temp-dir={own}",
            "--object-store-memory=200000000",
            "--disable-usage-stats",
            f"--dashboard-agent-listen-port={free_port()}",
            *options,
        ]
        with (self.folder / "nodes.log").open("ab") as log:
            environment = self.environment | {"TMPDIR": own}
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[RayCluster]:
    """A head; the test adds the workers that it wants."""
    cluster = RayCluster()
    try:
        cluster.start_head()
        yield cluster
    finally:
        cluster.stop()


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
