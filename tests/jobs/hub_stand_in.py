"""A stand-in for the Hugging Face Hub: the part of its HTTP API that a publication needs."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_standin"
LARGE = (".parquet", ".safetensors")


@dataclass
class Repository:
    """What lies in one repository after its last commit."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: int = 0


@dataclass
class StandIn:
    """Repositories by kind and id, and the large files that were uploaded."""

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    fails_with: int | None = None
    refuses_cards: str | None = None

    def add(self, kind: str, repo: str, *, private: bool = False, **files: bytes) -> None:
        self.repositories[kind, repo] = Repository(private, {".gitattributes": b"", **files})


@contextmanager
def hub_stand_in() -> Iterator[StandIn]:
    """The stand-in at a free port."""
    state = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        if not self._is_allowed():
            return
        kind, repo, _ = self._api_path()
        found = self.state.repositories.get((kind, repo))
        if found is None:
            self._reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [{"rfilename": name} for name in found.files]
        facts = {"id": repo, "private": found.private, "sha": "0" * 40, "siblings": siblings}
        self._reply(200, {**facts, "tags": [], "downloads": 0})

    def do_POST(self) -> None:
        body = self._body()
        if not self._is_allowed():
            return
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate_card()
        elif path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": _mode(f["path"]), "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._reply(200, {"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.state.url}/large/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self._reply(200, {"transfer": "basic", "objects": objects})
        else:
            self._commit([json.loads(line) for line in body.splitlines()])

    def do_PUT(self) -> None:
        """The address that was given out for a large file; it needs no token, as at S3."""
        self.state.large[self.path.rpartition("/")[2]] = self._body()
        self._reply(200, {})

    def _validate_card(self) -> None:
        if self.state.refuses_cards is None:
            self._reply(200, {"errors": [], "warnings": []})
        else:
            self._reply(400, {"errors": [{"message": self.state.refuses_cards}], "warnings": []})

    def _create(self, wanted: dict[str, Any]) -> None:
        kind, repo = wanted.get("type", "model"), f"{wanted['organization']}/{wanted['name']}"
        url = f"{self.state.url}/{'datasets/' if kind == 'dataset' else ''}{repo}"
        if (kind, repo) in self.state.repositories:
            self._reply(409, {"error": "You already created this", "url": url})
            return
        self.state.add(kind, repo, private=wanted.get("visibility") == "private")
        self._reply(200, {"url": url})

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        kind, repo, _ = self._api_path()
        there = self.state.repositories[kind, repo]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                there.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                there.files[value["path"]] = self.state.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del there.files[value["path"]]
        there.commits += 1
        url = f"{self.state.url}/{repo}/commit/{'0' * 40}"
        self._reply(200, {"commitUrl": url, "commitOid": "0" * 40, "success": True})

    def _api_path(self) -> tuple[str, str, str]:
        """Kind, id and what follows of /api/KINDs/owner/name/..."""
        kinds, owner, name, *rest = urlsplit(self.path).path.removeprefix("/api/").split("/")
        return kinds.removesuffix("s"), f"{owner}/{name}", "/".join(rest)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _is_allowed(self) -> bool:
        status = self.state.fails_with
        if status is None and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 401
        if status is not None:
            self._reply(status, {"error": "no"})
        return status is None

    def _reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _mode(path: str) -> str:
    return "lfs" if path.endswith(LARGE) else "regular"
