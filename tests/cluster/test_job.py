"""Job servers that are not there, are not Ray's, or run another Ray."""

import io
import json
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import ray

from cluster.job import JobServer
from cluster.package import Package
from cluster.settings import job_server_address, ray_token
from fusion.errors import BadInputError, CrucibleError

_EMPTY = io.BytesIO()
zipfile.ZipFile(_EMPTY, "w").close()
_ZIP = _EMPTY.getvalue()


class _Handler(BaseHTTPRequestHandler):
    """Answers as `answer` says."""

    answer: Callable[[str, str, bytes], tuple[int, object]]

    def _reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, told = type(self).answer(self.command, self.path, body)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    do_GET = do_POST = do_PUT = _reply  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def _serving(answer: Callable[[str, str, bytes], tuple[int, object]]) -> Iterator[str]:
    handler = type("Handler", (_Handler,), {"answer": staticmethod(answer)})
    server = HTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@contextmanager
def _answering(status: int, body: object) -> Iterator[str]:
    """A server that gives every request one answer."""
    with _serving(lambda command, path, sent: (status, body)) as address:
        yield address


@contextmanager
def _job_server(jobs: dict[str, str]) -> Iterator[str]:
    """What a job server says of jobs in these states; one that is submitted is added."""

    def answer(command: str, path: str, sent: bytes) -> tuple[int, object]:
        if path == "/api/version":
            return 200, {"ray_version": ray.__version__}
        if command == "POST":
            name = json.loads(sent)["submission_id"]
            if name in jobs:
                return 500, f"{name} already exists"
            jobs[name] = "PENDING"
            return 200, {"job_id": name, "submission_id": name}
        listed = [
            {"type": "SUBMISSION", "submission_id": name, "status": state, "entrypoint": "e"}
            for name, state in jobs.items()
        ]
        return 200, listed

    with _serving(answer) as address:
        yield address


def _refusal(address: str, token: str | None = None) -> str:
    with pytest.raises(BadInputError) as refused:
        JobServer(address, token)
    return str(refused.value)


@pytest.mark.parametrize(
    ("states", "name"),
    [
        ({}, "job"),
        ({"job": "RUNNING"}, "job"),
        ({"job": "SUCCEEDED"}, "job"),
        ({"job": "FAILED"}, "job-2"),
        ({"job": "FAILED", "job-2": "STOPPED"}, "job-3"),
        ({"job": "FAILED", "job-2": "RUNNING"}, "job-2"),
    ],
)
def test_a_retry_finds_what_runs_and_succeeds_what_failed(states, name):
    known = set(states)
    with _job_server(states) as address:
        assert JobServer(address, None).submit("job", "true", Package(_ZIP, "0"), {}) == name
    assert set(states) == known | {name}


def test_a_job_that_is_not_known_is_refused_with_its_name():
    with _job_server({}) as address, pytest.raises(BadInputError, match="knows no job lost"):
        JobServer(address, None).job("lost")


def test_a_job_that_its_head_has_forgotten_is_not_followed_on():
    jobs = {"job": "RUNNING"}
    with _job_server(jobs) as address:
        server = JobServer(address, None)
        del jobs["job"]
        with pytest.raises(CrucibleError, match="started anew and knows no job job"):
            server.follow("job", print)


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
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "~nobody-here/token")
    with pytest.raises(BadInputError, match="no such user"):
        ray_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from-variable")
    assert ray_token() == "from-variable"
