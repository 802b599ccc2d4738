"""What a failure in a Ray Data worker looks like at the command line: real pipelines that fail."""

import logging

import pyarrow as pa
import pytest
import ray
from ray.data import ActorPoolStrategy, Dataset
from typer.testing import CliRunner

from cluster.connection import connected
from cluster.ray_data import quiet_ray_data
from fusion.errors import BadInputError, CrucibleError
from fusion.records import QUARANTINE, SCORES
from fusion.store import Location, Table
from jobs.__main__ import app
from jobs.datasink import TableSink, commit
from jobs.scoring import score_table

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


class FailingActor:
    """A worker whose own error is a sentence for the user."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        raise CrucibleError("the reward model is away; mend the cause")


class CallingActor:
    """A worker that hears of an error from another process."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        return ray.get(ray.remote(num_cpus=0)(fail).remote(batch))


class DefectiveActor:
    """A worker with a defect of ours."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        return batch["no such column"]


def fail(batch: pa.Table) -> pa.Table:
    """A task whose own error is a sentence for the user."""
    raise BadInputError("the judge's key is not set; set it on every node")


def passed_on(batch: pa.Table) -> pa.Table:
    """A task that works."""
    return batch


@pytest.fixture(scope="module", autouse=True)
def ray_is_up():
    with connected():
        yield


def _pipeline(worker) -> Dataset:
    quiet_ray_data()
    ids = dict.fromkeys(["score_id", "response_id", "scorer", "scorer_key", "partition"], "one")
    return ray.data.from_arrow([score_table([ids])]).map_batches(
        worker,
        batch_format="pyarrow",
        num_cpus=0.1,
        compute=ActorPoolStrategy(size=1) if isinstance(worker, type) else None,
    )


@pytest.fixture
def logged(caplog):
    """What Ray Data's own logger says, which passes nothing on to others."""
    logging.getLogger("ray.data").addHandler(caplog.handler)
    yield caplog
    logging.getLogger("ray.data").removeHandler(caplog.handler)


def _told(worker, folder, monkeypatch, logged) -> tuple[int, str]:
    """Exit code and output of a command whose pipeline has this worker."""
    scores = Table(Location.of(str(folder / "scores")), SCORES, "score_id")
    quarantine = Table(Location.of(str(folder / "quarantine")), QUARANTINE, "id")

    def command(*_):
        commit(_pipeline(worker), TableSink(scores, quarantine, "score"))

    monkeypatch.setattr("jobs.verify.verify_file", command)
    result = CliRunner().invoke(app, ["verify", "answers.jsonl", "--out", "out.jsonl"])
    return result.exit_code, result.output + logged.text


@pytest.mark.parametrize(
    ("worker", "code", "said"),
    [
        (FailingActor, 1, "failed: the reward model is away; mend the cause\n"),
        (fail, 2, "error: the judge's key is not set; set it on every node\n"),
        (CallingActor, 2, "error: the judge's key is not set; set it on every node\n"),
    ],
)
def test_a_worker_s_error_is_its_own_sentence_alone(
    worker, code, said, tmp_path, monkeypatch, logged
):
    assert _told(worker, tmp_path, monkeypatch, logged) == (code, said)


def test_an_error_of_the_sink_is_its_own_sentence_alone(tmp_path, monkeypatch, logged):
    (tmp_path / "scores").write_text("a file where the table's folder is to be")
    code, said = _told(passed_on, tmp_path, monkeypatch, logged)
    assert code == 1 and said.startswith("failed: ")
    assert said.endswith("what was committed is kept\n") and said.count("\n") == 1


def test_a_defect_in_a_worker_keeps_its_traceback():
    with pytest.raises(KeyError, match="in __call__"):
        _pipeline(DefectiveActor).take_all()
