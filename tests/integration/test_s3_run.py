"""The short run with its storage on a real S3 protocol server."""

import json
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from fusion.run import STAGES
from fusion.store import Location

pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.timeout(2400)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.fixture
def storage(monkeypatch):
    """The URI of a folder in a bucket of a server on the loopback."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="fusion")
    yield "s3://fusion/runs"
    server.stop()


def test_a_run_on_s3_ends_with_every_manifest_and_the_report(storage):
    recipe = str(HERE / "short_run.yaml")
    command = [sys.executable, "-m", "jobs", "run", recipe, f"--set=storage={storage}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    run = Location.of(storage) / "short"
    for stage in STAGES:
        assert json.loads((run / "manifests" / f"{stage}.json").read_text())["stage"] == stage
    assert len((run / "report.html").read_bytes()) > 100_000
