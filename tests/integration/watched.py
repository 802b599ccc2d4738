"""Runs whose engines write down every request they take, and what of a run can be killed."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.parquet as pq

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TAKEN = re.compile(r"^([\d.]+) Added request ([0-9a-f]{32})")


@dataclass
class WatchedRun:
    """A recipe's stages as a process; what its engines took and when each answer was committed."""

    storage: Path
    stages: tuple[str, ...]
    recipe: Path = HERE / "sampling.yaml"
    committed: dict[str, float] = field(default_factory=dict)
    """response_id -> time of the part in which it was first seen."""

    def __post_init__(self) -> None:
        self.storage.mkdir(parents=True, exist_ok=True)
        handler = {
            "class": "logging.FileHandler",
            "filename": str(self._log),
            "formatter": "plain",
        }
        config = {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"plain": {"format": "%(created)f %(message)s"}},
            "handlers": {"file": handler},
            "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
        }
        self._config.write_text(json.dumps(config))

    @property
    def _log(self) -> Path:
        return self.storage / "engine.log"

    @property
    def _config(self) -> Path:
        return self.storage / "logging.json"

    @property
    def environment(self) -> dict[str, str]:
        """What has engines write down the requests that they take."""
        return {"VLLM_LOGGING_CONFIG_PATH": str(self._config)}

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """The command at work, its commits noted; all its processes are gone afterwards."""
        stages = [f"--stage={stage}" for stage in self.stages]
        command = [sys.executable, "-m", "jobs", "run", str(self.recipe), *stages]
        command.append(f"--set=storage={self.storage}")
        environment = {**os.environ, **self.environment}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(command, cwd=ROOT, env=environment, **output) as process:
            tree = _Tree(process.pid)
            try:
                with self.watching():
                    yield process
            finally:
                process.kill()
                tree.kill()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Note commits while the block runs."""
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,))
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def stored_ids(self, table: str, column: str) -> list[str]:
        """The id of every stored row of a table, as often as it is stored."""
        parts = (self.storage / "store" / table).rglob("*.parquet")
        return [id_ for part in parts for id_ in _ids(part, column)]

    @property
    def activity(self) -> tuple[int, int]:
        """What grows while answers and scores come in."""
        scores = (self.storage / "store" / "scores").rglob("*.parquet")
        return len(self.committed), sum(1 for _ in scores)

    def taken(self) -> list[tuple[float, str]]:
        """Every request that an engine took, with its time."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [(float(m[1]), m[2]) for line in lines if (m := TAKEN.match(line))]

    def generated_again(self) -> set[str]:
        """Answers that an engine was asked for although they were committed before."""
        return {i for at, i in self.taken() if at > self.committed.get(i, at)}

    def _watch(self, done: threading.Event) -> None:
        seen: set[Path] = set()
        while True:
            is_last = done.is_set()
            responses = self.storage / "store" / "responses"
            for part in set(responses.rglob("part-*.parquet")) - seen:
                with contextlib.suppress(OSError):  # a compaction may delete it meanwhile
                    at = part.stat().st_mtime
                    for id_ in _ids(part, "response_id"):
                        self.committed.setdefault(id_, at)
                seen.add(part)
            if is_last:
                return
            done.wait(0.1)


class _Tree:
    """Every process that ever was seen below one, so that orphans are found as well."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seen: set[psutil.Process] = set()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def kill(self) -> None:
        self._done.set()
        self._watcher.join()
        for process in self._seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _watch(self) -> None:
        while not self._done.is_set():
            with contextlib.suppress(psutil.NoSuchProcess):
                self._seen |= set(self._root.children(recursive=True))
            self._done.wait(0.5)


def _ids(part: Path, column: str) -> list[str]:
    return pq.read_table(part, columns=[column])[column].to_pylist()


def processes(root: int, word: str) -> list[psutil.Process]:
    """Processes below one whose title holds a word, such as ServeReplica."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(root).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if word in " ".join(process.cmdline()):
                    found.append(process)
    return found


def wait_until(is_so, timeout_s: float = 300.0) -> None:
    """Wait for something that must come."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)


def is_alive(process: psutil.Process) -> bool:
    """Whether it still does something; a zombie does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
