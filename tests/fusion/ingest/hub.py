"""A stand-in for the Hub's HTTP API: data sets of a few files, each at one revision."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = hashlib.sha1(b"questions").hexdigest()
REVISIONS = (COMMIT, "v1")


@contextmanager
def hub_with(
    repositories: Mapping[str, Mapping[str, bytes]],
) -> Iterator[tuple[str, list[str]]]:
    """The endpoint of a hub with these data sets' files, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(body)

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self, body: bytes = b"") -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(f"{self.command} {path}")
            is_api, _, rest = path.partition("/datasets/")
            owner, name, rest = [*rest.split("/", 2), "", ""][:3]
            files = repositories.get(f"{owner}/{name}")
            if files is None:
                self._missing()
            elif is_api:
                self._api(f"{owner}/{name}", files, rest, body)
            else:
                revision, _, file = rest.removeprefix("resolve/").partition("/")
                self._file(files.get(file) if revision in REVISIONS else None)

        def _api(self, name: str, files: Mapping[str, bytes], rest: str, body: bytes) -> None:
            kind, revision, folder = [*rest.split("/", 2), "", ""][:3]
            if revision and revision not in REVISIONS:
                self._missing("RevisionNotFound")
            elif kind in ("", "revision"):
                siblings = [{"rfilename": file} for file in files]
                self._json({"id": name, "sha": COMMIT, "siblings": siblings, "tags": []})
            elif kind == "tree":
                self._json(_tree(files, folder))
            elif kind == "paths-info":
                wanted = _wanted(body)
                self._json([_entry(file, files[file]) for file in files if file in wanted])
            else:
                self._missing()

        def _file(self, data: bytes | None) -> None:
            if data is None:
                self._missing("EntryNotFound")
                return
            start, end = 0, len(data) - 1
            if requested := self.headers.get("Range"):
                first, _, last = requested.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last or end), end)
            self.send_response(206 if requested else 200)
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
            self._body(data[start : end + 1])

        def _json(self, value: Any) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Repo-Commit", COMMIT)
            self._body(json.dumps(value).encode())

        def _missing(self, code: str = "RepoNotFound") -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self._body(b"{}")

        def _body(self, data: bytes) -> None:
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(data).hexdigest()
    return {"type": "file", "path": name, "size": len(data), "oid": oid}


def _tree(files: Mapping[str, bytes], folder: str) -> list[dict[str, Any]]:
    start = f"{folder}/" if folder else ""
    inside = {name: name.removeprefix(start) for name in files if name.startswith(start)}
    folders = {f"{start}{rest.partition('/')[0]}" for rest in inside.values() if "/" in rest}
    entries = [_entry(name, files[name]) for name, rest in inside.items() if "/" not in rest]
    return entries + [{"type": "directory", "path": name, "oid": "0"} for name in sorted(folders)]


def _wanted(body: bytes) -> list[str]:
    if body.startswith(b"{"):
        paths: list[str] = json.loads(body)["paths"]
        return paths
    return [unquote(part.partition("=")[2]) for part in body.decode().split("&")]
