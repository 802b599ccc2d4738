"""Every test of the store runs on a local folder and on a real S3 server on loopback."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer

from fusion.store import Location
from tests.fusion.store.flaky import FlakyWay

ROOT = Path(__file__).parents[3]
BUCKET = "crucible-tests"


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """Port of a real S3 server on loopback."""
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # one line a request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture(scope="session")
def s3(s3_port: int) -> Iterator[str]:
    """URI of a bucket; the endpoint and keys are in the environment, as a user would set them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"


@pytest.fixture
def way(s3: str, s3_port: int) -> Iterator[FlakyWay]:
    """A way to the S3 server that can be made to fail."""
    way = FlakyWay(s3_port)
    yield way
    way.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A real S3 server makes a test an integration test."""
    for item in items:
        if "s3" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.integration)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty folder of its own."""
    if request.param == "local":
        return Location.of(tmp_path / "storage")
    return Location.of(f"{request.getfixturevalue('s3')}/{uuid4().hex}")


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `python -c SCRIPT ARGUMENTS` in the source tree; what still runs is killed after."""
    processes: list[subprocess.Popen[str]] = []

    def _start(script: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield _start
    for process in processes:
        process.kill()
        process.wait()
