"""Where a value stands in a row: a path like turns[0].content, or a text with {paths} in it."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fusion.errors import BadInputError
from fusion.ingest.rows import RowError

_NAME = r"[^.\[\]{}]+"
_PATH = re.compile(rf"{_NAME}(\[-?\d{{1,9}}\])*(\.{_NAME}(\[-?\d{{1,9}}\])*)*")
_STEP = re.compile(rf"\[(?P<index>-?\d+)\]|(?P<name>{_NAME})")
_TEMPLATE = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<path>[^{}]*)\}|(?P<text>[^{}]+)|(?P<stray>.)")


@dataclass(frozen=True)
class Path:
    """Columns and list positions, followed one after the other."""

    text: str
    steps: tuple[str | int, ...]

    def read(self, columns: dict[str, Any]) -> Any:
        """The value there.

        Raises:
            RowError: the row has none; null counts as none.
        """
        value = _walk(columns, self.steps)
        if value is None and _holds(_walk(columns, self.steps[:-1]), self.steps[-1]):
            raise RowError("missing_field", f"{self.text} is null")
        if value is None:
            known = ", ".join(columns) or "none"
            raise RowError("missing_field", f"it has no {self.text}; its columns are {known}")
        return value

    def is_in(self, columns: dict[str, Any]) -> bool:
        """Whether a row has a value there."""
        return _walk(columns, self.steps) is not None


@dataclass(frozen=True)
class Template:
    """A text in which paths stand for their values."""

    parts: tuple[str | Path, ...]

    def read(self, columns: dict[str, Any]) -> str:
        """The text with its values filled in; white space at its end goes, as of an empty value.

        Raises:
            RowError: the row lacks a path, or a value is neither text nor a number.
        """
        return "".join(
            part if isinstance(part, str) else text_of(part.read(columns), part.text)
            for part in self.parts
        ).rstrip()


Field = Path | Template


def parse_field(text: str) -> Field:
    """What a recipe says of a field: with a brace in it a template, else a path.

    Raises:
        BadInputError: it is neither.
    """
    if "{" in text or "}" in text:
        return Template(tuple(_merge_texts(_template_parts(text))))
    return parse_path(text)


def parse_path(text: str) -> Path:
    """A path from its text.

    Raises:
        BadInputError: it is none.
    """
    if not _PATH.fullmatch(text):
        raise BadInputError(
            f"The field {text!r} is not a path; expected one like question or turns[0].content, "
            "or a text with such paths in braces."
        )
    steps = [
        int(match["index"]) if match["index"] else match["name"] for match in _STEP.finditer(text)
    ]
    return Path(text, tuple(steps))


def paths_of(field: Field) -> tuple[Path, ...]:
    """Every path that a field reads."""
    if isinstance(field, Path):
        return (field,)
    return tuple(part for part in field.parts if isinstance(part, Path))


class PathWatch:
    """Which of the paths that a mapping reads no row has had so far."""

    def __init__(self, what: str, file: str, paths: Iterable[Path]) -> None:
        """`what` names the section of the recipe that gives the paths, `file` its data."""
        self._what = what
        self._file = file
        self._waiting = set(paths)
        self._columns: dict[str, None] = {}

    def see(self, columns: dict[str, Any]) -> None:
        """Take note of one more row."""
        if self._waiting:
            self._waiting = {path for path in self._waiting if not path.is_in(columns)}
            self._columns.update(dict.fromkeys(columns))

    def check(self) -> None:
        """See that each path was in some row, if there were rows.

        Raises:
            BadInputError: one was in none; it names the columns that there are.
        """
        if not self._waiting or not self._columns:
            return
        path = min(path.text for path in self._waiting)
        raise BadInputError(
            f"No row of {self._file} has a value in the field {path} that {self._what} names; its "
            f"columns are {', '.join(self._columns)}: correct fields or exclude."
        )


def text_of(value: Any, field: str) -> str:
    """A text or a finite number as text; a whole number has no decimal point.

    Raises:
        RowError: it is neither, or not valid Unicode.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError("wrong_type", f"{field} is {value}, neither text nor a finite number")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    return checked_text(value, field)


def checked_text(value: Any, field: str) -> str:
    """A text that can be stored as UTF-8.

    Raises:
        RowError: it is no text, or holds half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{field} is {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError("invalid_unicode", f"{field} holds half of a surrogate pair") from None
    return value


def checked_number(value: Any, field: str) -> float:
    """A finite number, or the text of one.

    Raises:
        RowError: it is no number, or none that answers could be ranked by.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise RowError("wrong_type", f"{field} is {type(value).__name__}, not a number")
    try:
        number = float(value)
    except ValueError:
        raise RowError("wrong_type", f"{field} is {str(value)[:40]!r}, not a number") from None
    except OverflowError:
        raise RowError("not_a_number", f"{field} is beyond what a float holds") from None
    if not math.isfinite(number):
        raise RowError("not_a_number", f"{field} is {number}")
    return number


def _walk(value: Any, steps: Iterable[str | int]) -> Any:
    """What the steps lead to, None where one of them is not there."""
    for step in steps:
        value = value[step] if _holds(value, step) else None
    return value


def _holds(value: Any, step: str | int) -> bool:
    """Whether a value has a column of that name, or a list that position."""
    if isinstance(step, str):
        return isinstance(value, dict) and step in value
    return isinstance(value, list) and -len(value) <= step < len(value)


def _template_parts(text: str) -> list[str | Path]:
    parts: list[str | Path] = []
    for match in _TEMPLATE.finditer(text):
        if match["stray"] and match["stray"] in "{}":
            raise BadInputError(
                f"The field {text!r} has a lone {match['stray']}; write {match['stray'] * 2} for "
                "the character itself, or close the braces around a path."
            )
        if match["path"] is not None:
            parts.append(parse_path(match["path"]))
        else:
            parts.append(match["brace"][0] if match["brace"] else match[0])
    return parts


def _merge_texts(parts: list[str | Path]) -> list[str | Path]:
    merged: list[str | Path] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return merged
