"""The endpoint on a socket of its own, over sources in this process."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from fusion.errors import BadInputError
from fusion.recipe import Endpoint
from services.gateway.app import build_app
from services.gateway.listening import bound, server
from tests.services.gateway.asking import run_of, said


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def listening(sources, tmp_path):
    """The address of an endpoint that is up, and the file of its audit log."""
    audit = tmp_path / "audit.jsonl"
    run = run_of(tmp_path, port=_free_port(), audit=str(audit))
    endpoint = run.recipe.endpoint
    with _served(build_app(run, sources), endpoint):
        yield ("127.0.0.1", endpoint.port), audit


@contextmanager
def _served(app, endpoint):
    serving = server(app, endpoint)
    thread = threading.Thread(target=serving.run, args=[[bound(endpoint)]])
    thread.start()
    _wait_until(lambda: serving.started)
    try:
        yield
    finally:
        serving.should_exit = True
        thread.join(timeout=30)


def _wait_until(is_so, *, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _sent(address, path, body):
    connection = socket.create_connection(address, timeout=10)
    text = json.dumps(body).encode()
    connection.sendall(
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % (path, len(text)) + text
    )
    return connection


def test_it_answers_where_it_is_bound(listening):
    (host, port), _ = listening
    assert httpx.get(f"http://{host}:{port}/readyz").json() == {"status": "ok"}


FANOUT = {"messages": said()["messages"], "models": ["llama"]}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (b"/v1/chat/completions", said(), 499),
        (b"/v1/chat/completions", said(stream=True), 499),
        (b"/v1/fanout", FANOUT, 200),  # it has begun to answer
    ],
    ids=["whole", "stream", "fanout"],
)
def test_a_client_that_hangs_up_ends_its_answer(listening, sources, path, body, status):
    address, audit = listening
    sources.holding = asyncio.Event()
    connection = _sent(address, path, body)
    _wait_until(lambda: sources.under_way == 1)
    connection.close()
    _wait_until(lambda: sources.under_way == 0 and audit.read_text())
    (line,) = [json.loads(line) for line in audit.read_text().splitlines()]
    assert (line["status"], line["outcome"]) == (status, "abandoned")


def test_a_port_that_is_taken_is_told_before_anything_starts():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInputError, match=rf"port {port} .*set endpoint\.port"):
            bound(Endpoint(port=port))
