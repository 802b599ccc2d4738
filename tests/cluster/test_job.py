"""Job servers that are not there, are not Ray's, or run another Ray."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from cluster.job import JobServer
from cluster.settings import job_server_address, ray_token
from fusion.errors import BadInputError


@contextmanager
def _answering(status: int, body: object) -> Iterator[str]:
    """A server that gives every request one answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def _refusal(address: str, token: str | None = None) -> str:
    with pytest.raises(BadInputError) as refused:
        JobServer(address, token)
    return str(refused.value)


def test_an_address_that_nobody_answers_is_refused_with_it():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = _refusal(f"http://127.0.0.1:{port}")
    assert f"No job server of Ray answers at http://127.0.0.1:{port}" in said


def test_an_address_without_a_scheme_is_refused_with_an_example():
    assert "give http://HEAD:8265" in _refusal("head:6379")


def test_another_server_is_told_from_ray_s():
    with _answering(200, {"hello": "world"}) as address:
        assert "No job server of Ray answers" in _refusal(address)


def test_another_version_of_ray_is_refused_with_both():
    with _answering(200, {"ray_version": "2.9.0"}) as address:
        assert "runs Ray 2.9.0 and here is Ray 2." in _refusal(address)


@pytest.mark.parametrize(("token", "says"), [(None, "none was given"), ("x", "refuses the token")])
def test_a_missing_and_a_wrong_token_are_told_apart(token, says):
    with _answering(401, {}) as address:
        assert says in _refusal(address, token)


def test_the_address_given_goes_before_the_environment_s(monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://one:8265")
    monkeypatch.setenv("RAY_ADDRESS", "http://two:8265")
    assert job_server_address("http://three:8265") == "http://three:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://two:8265")
    assert job_server_address(None) == "http://two:8265"
    assert job_server_address(None) is None


def test_a_token_is_taken_from_the_variable_or_the_file_that_it_names(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert ray_token() is None
    (tmp_path / "token").write_text("from-file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert ray_token() == "from-file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from-variable")
    assert ray_token() == "from-variable"
