"""A run whose storage fails: a disk that fills up, an S3 server that is away again and again."""

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from fusion.records import RESPONSES
from fusion.run import STAGES
from fusion.store import Location, Table
from tests.fusion.store.flaky import FlakyWay
from tests.integration.watched import WatchedRun

pytestmark = [pytest.mark.integration, pytest.mark.timeout(2400)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
WANTED = 4 * (250 + 250 + 20) + 20 + 4 * 5  # answers of sampling.yaml
LITTLE, ENOUGH = "100k", "64m"  # its prompts fit into the one, its answers into the other only
WELL_S, ILL_S = 4.0, 2.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder whose `store` is a file system of its own, with little room."""
    store = tmp_path / "store"
    store.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={LITTLE}", "tmpfs", str(store)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NO DISK WAS FILLED: mounting needs root ({done.stderr.strip()})")
    yield tmp_path
    subprocess.run(["umount", str(store)], check=True)


def test_full_disk_stops_sampling_with_the_cause_and_the_next_start_goes_on(small_disk):
    run = WatchedRun(small_disk, ("ingest", "sample"))
    with run.started() as process:
        output, _ = process.communicate(timeout=500)
    assert process.returncode != 0
    assert "No space left on device" in output and "start the same command again" in output
    assert "Traceback" not in output
    before = run.stored_ids("responses", "response_id")
    assert 0 < len(before) == len(set(before)) < WANTED
    remount = ["mount", "-o", f"remount,size={ENOUGH}", str(small_disk / "store")]
    subprocess.run(remount, check=True)
    with run.started() as process:
        output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-4000:]
    after = run.stored_ids("responses", "response_id")
    assert len(after) == len(set(after)) == WANTED and set(before) < set(after)
    assert not run.generated_again()


@pytest.fixture
def s3_port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of a real S3 server on the loopback with a bucket `fusion`."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="fusion")
    yield port
    server.stop()


@pytest.fixture
def ailing(s3_port: int) -> Iterator[FlakyWay]:
    """A way to the server that errs, resets or cuts answers for some seconds, in turn, for ever."""
    way, done = FlakyWay(s3_port), threading.Event()

    def ail() -> None:
        for fault in itertools.cycle(("error", "reset", "cut")):
            if done.wait(WELL_S):
                return
            with way.failing(fault):
                done.wait(ILL_S)

    thread = threading.Thread(target=ail)
    thread.start()
    yield way
    done.set()
    thread.join()
    way.close()


@pytest.mark.soak
def test_run_on_an_ailing_s3_server_ends_whole(ailing, s3_port, monkeypatch):
    storage = "s3://fusion/runs"
    command = [sys.executable, "-m", "jobs", "run", str(HERE / "short_run.yaml")]
    command.append(f"--set=storage={storage}")
    environment = os.environ | {"AWS_ENDPOINT_URL": ailing.endpoint}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2300
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert ailing.refused > 5
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
    run = Location.of(storage) / "short"
    for stage in STAGES:
        assert json.loads((run / "manifests" / f"{stage}.json").read_text())["stage"] == stage
    assert len((run / "report.html").read_bytes()) > 100_000
    responses = Location.of(storage) / "store" / "responses"
    ids = [
        id_
        for folder in responses.list()
        for id_ in Table(responses / folder.name, RESPONSES, "response_id").read()["response_id"]
    ]
    assert len(ids) == len(set(ids)) > 300
