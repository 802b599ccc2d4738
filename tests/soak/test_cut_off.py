"""A worker host whose network is cut while it samples, is given up, and comes back.

Each worker is in a network namespace of its own, joined to the head's by a bridge. Cut off, it goes
on: what its engine makes still reaches the folder that all hosts share.
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.conftest import RayCluster
from tests.integration.test_worker_loss import check_whole, sampled

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"
    ),
]

BRIDGE = f"crucible{os.getpid() % 1000}"  # an interface has 15 letters at most
NETWORK, PREFIX = "10.213.77", 24
AWAY_S = 15.0  # five times what the head waits for a node


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Hosts(RayCluster):
    """A cluster whose workers are hosts of their own, as far as the network goes."""

    def __init__(self) -> None:
        super().__init__(f"{NETWORK}.1")
        self.names: list[str] = []
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{self.host}/{PREFIX}", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")

    def add_worker(
        self, *options: str, around: tuple[str, ...] = (), host: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a worker in a namespace of its own."""
        number = len(self.names) + 2
        name, host = f"{BRIDGE}-{number}", f"{NETWORK}.{number}"
        self.names.append(name)
        _ip("netns", "add", name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", name, "master", BRIDGE, "up")
        _ip("-n", name, "address", "add", f"{host}/{PREFIX}", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        return super().add_worker(*options, around=("ip", "netns", "exec", name), host=host)

    def connect(self, node: subprocess.Popen[bytes], state: str) -> None:
        """Cut the cable of a worker's host ("down"), or mend it ("up")."""
        _ip("link", "set", self.names[self.workers.index(node)], state)

    def stop(self) -> None:
        """Also take the network away."""
        super().stop()
        for name in self.names:
            _ip("netns", "delete", name)
        _ip("link", "delete", BRIDGE)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    cluster = Hosts()
    try:
        cluster.start_head()
        yield cluster
    finally:
        cluster.stop()


def test_a_host_that_comes_back_after_it_was_given_up_doubles_nothing(hosts, tmp_path):
    back: list[threading.Timer] = []

    def cut_off(name: str, job: subprocess.Popen[str], *, timeout_s: float) -> None:
        node = hosts.at_work(name, job, timeout_s=timeout_s)
        hosts.connect(node, "down")
        hosts.wait_for_workers(1)
        back.append(threading.Timer(AWAY_S, hosts.connect, (node, "up")))
        back[0].start()

    run = sampled(hosts, tmp_path, cut_off)
    back[0].join()
    hosts.wait_for_workers(1)
    check_whole(run)
