"""Existing training data in TRL's conversational format: messages, or prompt, chosen, rejected."""

from collections.abc import Iterator, Sequence
from typing import Any

from fusion.errors import BadInputError
from fusion.ingest.reading import DataPath, read_rows
from fusion.ingest.rows import Malformed

# Whose turn ends each column; a pair's replies are one turn each.
_LAST = {"messages": "assistant", "prompt": "user", "chosen": "assistant", "rejected": "assistant"}
_REPLIES = ("chosen", "rejected")


def read_training_rows(data: DataPath, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file or hub data set, each checked to hold conversations in these columns.

    Raises:
        BadInputError: the first row that does not.
    """
    for row in read_rows(data):
        if isinstance(row, Malformed):
            raise _unfit(data, row.number, row.detail, columns)
        if fault := _fault(row.columns, columns):
            raise _unfit(data, row.number, fault, columns)
        yield row.columns


def _unfit(data: DataPath, number: int, why: str, columns: Sequence[str]) -> BadInputError:
    return BadInputError(
        f"{data.path}, row {number}: {why}; expected TRL's conversational format with the columns "
        f"{', '.join(columns)}."
    )


def _fault(row: dict[str, Any], columns: Sequence[str]) -> str | None:
    """What keeps a row from being trained on."""
    if missing := [column for column in columns if not row.get(column)]:
        return f"it lacks {', '.join(missing)}"
    return next((fault for column in columns if (fault := _turn_fault(column, row[column]))), None)


def _turn_fault(column: str, value: Any) -> str | None:
    if not isinstance(value, list) or not all(_is_turn(turn) for turn in value):
        return f"{column} is not a list of turns {{role, content}}"
    if (role := value[-1]["role"]) != _LAST[column]:
        return f"{column} ends in a turn of {role}, not of {_LAST[column]}"
    if column in _REPLIES and len(value) > 1:
        return f"{column} has {len(value)} turns, not the reply alone"
    if column == "messages" and len(value) == 1:
        return f"{column} is a reply without a prompt"
    return None


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and all(
        isinstance(turn.get(key), str) for key in ("role", "content")
    )
