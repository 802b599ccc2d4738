"""How fast each source's engines were so far, kept with the run for the plan of what is left."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow.compute as pc

from fusion.run import Run
from fusion.store import Location
from jobs.sample import Asking


@contextmanager
def measuring(run: Run, askings: Sequence[Asking]) -> Iterator[None]:
    """Add what is stored inside the block, and the time it took, to the run's speeds.

    A source that ends before the others of its wave counts until the last has ended: its speed
    comes out too low, never too high.
    """
    before, started = _tokens(run, askings), time.monotonic()
    yield
    seconds = time.monotonic() - started
    totals = _read(run)
    for name, tokens in _tokens(run, askings).items():
        replicas = next(a.served.replicas for a in askings if a.served.name == name)
        old = totals.get(name, {"tokens": 0, "engine_seconds": 0.0})
        totals[name] = {
            "tokens": old["tokens"] + tokens - before[name],
            "engine_seconds": old["engine_seconds"] + seconds * replicas,
        }
    _file(run).write_text(json.dumps(totals) + "\n")


def measured_speeds(run: Run) -> dict[str, float]:
    """Answer tokens a second of one engine, by model, over all waves of this run so far."""
    return {
        name: total["tokens"] / total["engine_seconds"]
        for name, total in _read(run).items()
        if total["tokens"] and total["engine_seconds"]
    }


def _tokens(run: Run, askings: Sequence[Asking]) -> dict[str, int]:
    totals = dict.fromkeys((a.served.name for a in askings), 0)
    for asking in askings:
        table = run.shared("responses").partition(asking.source_key).read(["completion_tokens"])
        totals[asking.served.name] += pc.sum(table["completion_tokens"]).as_py() or 0
    return totals


def _read(run: Run) -> dict[str, dict[str, float]]:
    file = _file(run)
    read: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
    return read


def _file(run: Run) -> Location:
    return run.folder / "logs" / "speeds.json"
