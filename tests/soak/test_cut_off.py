"""A worker node that is cut off while it samples, is given up, and comes back."""

import signal
import subprocess
import threading

import pytest

from tests.integration.test_worker_loss import check_whole, sampled

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

AWAY_S = 15.0  # five times what the head waits for a node


def test_a_node_that_comes_back_after_it_was_given_up_doubles_nothing(ray_cluster, tmp_path):
    back: list[threading.Timer] = []

    def cut_off(name: str, job: subprocess.Popen[str], *, timeout_s: float) -> None:
        node = ray_cluster.at_work(name, job, timeout_s=timeout_s)
        ray_cluster.send(node, signal.SIGSTOP)
        ray_cluster.wait_for_workers(1)
        back.append(threading.Timer(AWAY_S, ray_cluster.send, (node, signal.SIGCONT)))
        back[0].start()

    run = sampled(ray_cluster, tmp_path, cut_off)
    back[0].join()
    ray_cluster.wait_for_workers(1)
    check_whole(run)
