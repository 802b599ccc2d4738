"""A job whose driver alone is killed while it samples; the cluster and the models live on."""

import psutil
import pytest

from tests.integration.test_worker_loss import check_whole, prepared, submitted
from tests.integration.watched import WatchedRun, processes, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(ray_cluster, tmp_path_factory) -> WatchedRun:
    """The run, after its driver was killed when the first part was there, and was started again."""
    run = prepared(ray_cluster, tmp_path_factory.mktemp("driver"))
    with run.watching():
        job = submitted(ray_cluster, run)
        wait_until(lambda: run.committed or job.poll() is not None)
        (driver,) = _drivers(ray_cluster.head.pid)
        driver.kill()
        output, _ = job.communicate(timeout=100)
        assert job.returncode not in (0, None), output[-6000:]
        left = [w for w in ray_cluster.workers if ray_cluster.running(w, "ServeReplica")]
        assert left, "the driver took its models down, so they did not outlive it"
        again = submitted(ray_cluster, run)
        said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said[-6000:]
    assert said.split()[1] == f"{output.split()[1]}-2"
    return run


def _drivers(head: int) -> list[psutil.Process]:
    found = processes(head, "-m jobs run")
    return [process for process in found if process.name().startswith("python")]


def test_every_wanted_answer_is_there_once(run):
    check_whole(run)


def test_what_was_committed_before_is_not_generated_again(run):
    assert not run.generated_again()


def test_nothing_is_left_up(ray_cluster, run):
    assert not [w for w in ray_cluster.workers if ray_cluster.running(w, "ServeReplica")]
