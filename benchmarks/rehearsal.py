"""The rehearsal as a figure: seconds of a run, of the same command again, and peak memory.

    python benchmarks/rehearsal.py [--storage DIR]

Memory is the sum of the proportional set sizes of all processes of the run, Ray's daemons
included, read every two seconds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
TARGETS = {"run_seconds": 600.0, "again_seconds": 60.0, "peak_memory_gb": 14.0}


@dataclass
class Measured:
    """Wall-clock seconds and the peak of memory over the process tree."""

    seconds: float = 0.0
    peak_bytes: int = 0


def main() -> None:
    """Run the rehearsal twice in a fresh storage and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", default=None, help="a new folder; temporary by default")
    storage = parser.parse_args().storage or tempfile.mkdtemp(prefix="crucible-rehearsal-")
    recipe = Path(storage) / "recipe.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    extends = str(ROOT / "rehearsal" / "recipe.yaml")
    recipe.write_text(yaml.safe_dump({"extends": extends, "storage": storage}))
    command = [sys.executable, "-m", "jobs", "run", str(recipe)]
    first, again = measure(command), measure(command)
    figures = {
        "run_seconds": first.seconds,
        "again_seconds": again.seconds,
        "peak_memory_gb": first.peak_bytes / 1e9,
    }
    result = json.loads((Path(storage) / "rehearsal" / "result.json").read_text())
    for name, value in figures.items():
        print(f"{name:16} {value:8.1f}   target below {TARGETS[name]:g}")
    print(json.dumps({"name": "rehearsal", "figures": _rows(figures), "context": result}))


def _rows(figures: dict[str, float]) -> dict[str, dict[str, object]]:
    return {
        name: {
            "ours": round(value, 1),
            "peer": None,
            "ratio": None,
            "unit": name.rpartition("_")[2],
            "target": TARGETS[name],
            "met": value < TARGETS[name],
        }
        for name, value in figures.items()
    }


def measure(command: list[str]) -> Measured:
    """Run a command to its end while watching the memory of its process tree."""
    measured, done = Measured(), threading.Event()
    started = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT) as process:
        watcher = threading.Thread(target=_watch, args=(process.pid, measured, done))
        watcher.start()
        code = process.wait()
        done.set()
        watcher.join()
    measured.seconds = time.monotonic() - started
    if code != 0:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return measured


def _watch(pid: int, measured: Measured, done: threading.Event) -> None:
    while not done.wait(2.0):
        measured.peak_bytes = max(measured.peak_bytes, _tree_bytes(pid))


def _tree_bytes(pid: int) -> int:
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(_bytes, tree))


def _bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0


if __name__ == "__main__":
    main()
