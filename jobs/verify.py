"""`crucible verify`: grade answers with gold or tests, without a fusion."""

import codecs
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from fusion.errors import BadInputError, one_line
from fusion.verification import VERIFIERS, Malformed, Task, Verdict, Verifiers

ROWS_PER_CALL = 512
_TEXTS = ("verifier", "response", "gold", "tests", "entry_point")


def verify_file(file: Path, out: Path) -> str:
    """Grade every row of a JSON-lines file, write a verdict each, return the summary as JSON.

    A malformed row (no JSON, no known verifier, gold or tests that cannot be used) is counted
    under errors and gets no verdict's credit; a timeout is wrong. A file without a row, or with
    malformed rows alone, is told on stderr. `out` is written whole or not at all.

    Raises:
        BadInputError: the file cannot be read, or the verdicts cannot be written.
        CrucibleError: code is to be run and there is no isolator.
    """
    started = time.monotonic()
    if not file.is_file():
        raise BadInputError(f"There is no file {file}; give JSON lines with id and response.")
    if not out.parent.is_dir():
        raise BadInputError(f"The folder {out.parent} of --out does not exist; make it first.")
    if out.is_dir() or (out.exists() and os.path.samefile(out, file)):
        raise BadInputError(f"--out {out} is the input or a folder; name a file of its own.")
    counts = {"rows": 0, "correct": 0, "wrong": 0, "errors": 0}
    with _opened(out) as sink, Verifiers() as verifiers:
        for batch in _batches(file):
            rows = _grade(batch, verifiers)
            for row in rows:
                counts["rows"] += 1
                counts[_column(row)] += 1
            with _writing(out):
                sink.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    if counts["rows"] == counts["errors"]:
        ungraded = f"No row of {file} could be graded; {out} says why of each."
        print(ungraded if counts["rows"] else f"{file} has no rows.", file=sys.stderr)
    return json.dumps({**counts, "seconds": round(time.monotonic() - started, 3)})


@contextmanager
def _opened(out: Path) -> Iterator[TextIO]:
    """A file beside `out` that takes its place at the end.

    What is no plain file is written straight, and so are a link, a file in a folder where no other
    may be made, and standard output itself, whose place in a file the summary then follows.
    """
    with _writing(out):
        is_stdout = out.exists() and os.path.samestat(out.stat(), os.fstat(1))
        is_replaceable = not out.exists() or (out.is_file() and os.access(out.parent, os.W_OK))
        is_straight = is_stdout or out.is_symlink() or not is_replaceable
        target = out if is_straight else out.with_name(f".{out.name}.{uuid4().hex}.tmp")
        sink = (
            os.fdopen(os.dup(1), "w", encoding="utf-8")
            if is_stdout
            else target.open("w", encoding="utf-8")
        )
    try:
        yield sink
        with _writing(out):
            sink.close()
            if not is_straight:
                target.replace(out)
    except BaseException:
        with suppress(OSError):
            sink.close()
        if not is_straight:
            target.unlink(missing_ok=True)
        raise


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise BadInputError(
            f"--out {out} cannot be written ({reason}); name a file that may be, with room for it."
        ) from None


def _column(row: dict[str, Any]) -> str:
    if row["correct"] is None:
        return "errors"
    return "correct" if row["correct"] else "wrong"


def _batches(file: Path) -> Iterator[list[tuple[int, bytes]]]:
    batch: list[tuple[int, bytes]] = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if text.strip():
                batch.append((number, text))
            if len(batch) == ROWS_PER_CALL:
                yield batch
                batch = []
    yield batch


def _grade(batch: list[tuple[int, bytes]], verifiers: Verifiers) -> list[dict[str, Any]]:
    parsed = [_parse(number, line) for number, line in batch]
    tasks = [task for _, task in parsed if isinstance(task, Task)]
    outcomes = iter(verifiers.verify(tasks))
    return [_row(name, next(outcomes) if isinstance(task, Task) else task) for name, task in parsed]


def _parse(number: int, line: bytes) -> tuple[str | float, Task | Malformed]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return number, Malformed(f"line {number} is not UTF-8: {error.reason}")
    except (ValueError, RecursionError) as error:
        return number, Malformed(f"line {number} is not JSON: {error}")
    if not isinstance(row, dict):
        return number, Malformed(f"line {number} is no JSON object")
    name = number if row.get("id") is None else row["id"]
    if not _is_id(name):
        return number, Malformed(f"line {number}: id must be a text or a finite number")
    wrong = [key for key in _TEXTS if not isinstance(row.get(key, ""), str | None)]
    if wrong or not isinstance(row.get("response"), str):
        return name, Malformed(f"line {number}: {(wrong or ['response'])[0]} must be a text")
    if row.get("verifier") not in VERIFIERS:
        known = ", ".join(VERIFIERS)
        return name, Malformed(f"line {number}: verifier must be one of {known}")
    task = Task(
        row["verifier"], row["response"], row.get("gold"), row.get("tests"), row.get("entry_point")
    )
    return name, task


def _is_id(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int) and not isinstance(value, bool)


def _row(name: str | float, outcome: Verdict | Malformed) -> dict[str, Any]:
    if isinstance(outcome, Malformed):
        return {"id": name, "correct": None, "reason": outcome.detail, "seconds": 0.0}
    seconds = round(outcome.seconds, 4)
    return {"id": name, "correct": outcome.correct, "reason": outcome.reason, "seconds": seconds}
