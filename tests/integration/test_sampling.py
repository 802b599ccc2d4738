"""A replica that dies in the middle of sampling: waited for, asked again, nothing made twice."""

import pytest

from tests.integration.watched import WatchedRun, processes, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

WANTED = 4 * (250 + 250 + 20) + 20 + 4 * 5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of ingest and sample whose only replica was killed once."""
    run = WatchedRun(tmp_path_factory.mktemp("sampling"), ("ingest", "sample"))
    with run.started() as process:
        wait_until(lambda: run.committed or process.poll() is not None)
        (replica,) = processes(process.pid, "ServeReplica")
        replica.kill()
        assert len(run.committed) < WANTED / 2
        output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-4000:]
    return run


def test_every_wanted_answer_is_stored_once(run):
    ids = run.stored_ids("responses", "response_id")
    assert len(ids) == len(set(ids)) == WANTED


def test_no_committed_answer_is_generated_again(run):
    assert set(run.stored_ids("responses", "response_id")) <= {id_ for _, id_ in run.taken()}
    assert not run.generated_again()


def test_what_was_in_flight_was_asked_again(run):
    asked = [id_ for _, id_ in run.taken()]
    again = len(asked) - len(set(asked))
    assert 0 < again <= 64
