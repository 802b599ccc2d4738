"""`crucible serve` as a process of its own, and what the tests ask it."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).parents[2]
START_S = 400


@dataclass(frozen=True)
class Served:
    """An endpoint that is up."""

    recipe: Path
    base: str
    process: subprocess.Popen[bytes]
    keys_file: Path
    certificate: Path
    first_key: str

    @property
    def tls(self) -> ssl.SSLContext:
        """What trusts the endpoint's certificate."""
        return ssl.create_default_context(cafile=self.certificate)

    def get(self, path: str, token: str) -> httpx.Response:
        """Read something with a key."""
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(self.base + path, headers=headers, verify=self.tls)

    def key(self, name: str, *options: str) -> str:
        """A new key, made at the command line."""
        made = crucible("keys", "create", name, "--keys", str(self.keys_file), *options)
        assert made.returncode == 0, made.stderr
        return made.stdout.split()[0]


def crucible(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "jobs", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@contextmanager
def served(folder: Path, **endpoint: Any) -> Iterator[Served]:
    """The rehearsal's llama, one answer at a time, and gemma behind an endpoint with keys."""
    port, keys_file = _free_port(), folder / "keys.json"
    certificate, tls_key = _certificate(folder)
    made = crucible("keys", "create", "first", "--keys", str(keys_file))
    assert made.returncode == 0, made.stderr
    recipe = folder / "recipe.yaml"
    changes = {
        "extends": str(ROOT / "rehearsal" / "recipe.yaml"),
        "name": "served",
        "storage": str(folder / "runs"),
        "sources": [{"name": "llama", "engine": {"max_num_seqs": 1}}],
        "endpoint": {
            "port": port,
            "sources": ["llama", "gemma"],
            "keys": str(keys_file),
            "tls_certificate": str(certificate),
            "tls_key": str(tls_key),
            **endpoint,
        },
    }
    recipe.write_text(yaml.safe_dump(changes))
    command = [sys.executable, "-m", "jobs", "serve", str(recipe)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        first_key = made.stdout.split()[0]
        base = f"https://127.0.0.1:{port}"
        up = Served(recipe, base, process, keys_file, certificate, first_key)
        try:
            _wait_until_up(up)
            yield up
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(timeout=60)
        assert code == 0


def _wait_until_up(up: Served) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert up.process.poll() is None, "crucible serve has ended"
        try:
            listed = up.get("/v1/models", up.first_key).json()
            if len(listed.get("data", ())) == 2:
                return
        except (httpx.HTTPError, ValueError):
            pass
        time.sleep(0.5)
    raise AssertionError("the endpoint did not come up")


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine's loopback, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *files]
    subprocess.run(make, check=True, capture_output=True)
    return certificate, key


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
