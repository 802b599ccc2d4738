"""A row as a file holds it, or the reason why it is none."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fusion.errors import BadInputError
from fusion.records import QUARANTINE

NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Row:
    """One row of a file: its line (CSV, JSONL) or its position from 1, and its columns."""

    number: int
    columns: dict[str, Any]


@dataclass(frozen=True)
class Malformed:
    """A row that cannot be used, why (`reason` is a fixed word) and what was found."""

    number: int
    reason: str
    detail: str


@dataclass(frozen=True)
class Mapped:
    """A row of a file as a row of the prompts table."""

    number: int
    prompt: dict[str, Any]


@dataclass(frozen=True)
class Dropped:
    """A row that a rule leaves out, what of it the rule found, and its prompt if it was read."""

    number: int
    rule: str
    text: str
    prompt: dict[str, Any] | None = None


@dataclass(frozen=True)
class DatasetCounts:
    """What became of the rows of one data set."""

    entered: int
    results: int
    dropped: dict[str, int]
    quarantined: dict[str, int]


class RowError(Exception):
    """A row lacks what the recipe's fields ask of it; becomes a `Malformed` row."""

    def __init__(self, reason: str, detail: str) -> None:
        # A column's name may hold half of a surrogate pair, which no table can store.
        self.reason = reason
        self.detail = detail.encode(errors="backslashreplace").decode()
        super().__init__(self.detail)


def quarantine_rows(stage: str, name: str, malformed: Iterable[Malformed]) -> pa.Table:
    """Rows of the quarantine table, each identified by its data set or source and its number."""
    rows = [
        {
            "stage": stage,
            "id": f"{name}:{row.number}",
            "reason": row.reason,
            "detail": f"row {row.number}: {row.detail}",
            "attempts": 1,
        }
        for row in malformed
    ]
    return pa.Table.from_pylist(rows, schema=QUARANTINE)


def check_share(
    what: str, path: str, num_rows: int, malformed: list[Malformed], limit: float
) -> None:
    """Stop when there are no rows, or when more than a share `limit` of them is malformed.

    Raises:
        BadInputError: with the count and the first three malformed rows.
    """
    if num_rows == 0:
        raise BadInputError(f"{what} has no rows in {path}; give a file with at least one row.")
    if len(malformed) <= limit * num_rows:
        return
    examples = "; ".join(
        f"row {row.number}: {row.reason}, {row.detail}" for row in malformed[:NUM_EXAMPLES]
    )
    raise BadInputError(
        f"{what} has {len(malformed)} malformed of {num_rows} rows in {path}, more than "
        f"malformed_limit {limit} allows; mend them or raise the limit ({examples})."
    )
