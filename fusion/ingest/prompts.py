"""How the rows of a data set become rows of the prompts table."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

from fusion.identity import dedupe_key, prompt_id
from fusion.ingest.conversation import Message, history, marked_turns, user_turn
from fusion.ingest.fields import (
    Field,
    Path,
    PathWatch,
    checked_text,
    parse_field,
    parse_path,
    paths_of,
    text_of,
)
from fusion.ingest.reading import Read
from fusion.ingest.rows import Dropped, Malformed, Mapped, Row, RowError
from fusion.ingest.topics import TopicSign, find_topic
from fusion.recipe import Dataset

# A million characters are some 250,000 tokens: beyond what a source reads.
MAX_PROMPT_CHARACTERS = 1_000_000


class PromptMapping:
    """How the rows of one data set become prompts.

    Raises:
        BadInputError: a field of the data set is neither a path nor a template.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.fields = {name: parse_field(text) for name, text in dataset.fields.items()}
        self._exclude = {parse_path(path): values for path, values in dataset.exclude.items()}

    def excluded_value(self, row: Row) -> str | None:
        """The path and value by which the recipe leaves this row out, None where it does not."""
        found = (_held(row, path, values) for path, values in self._exclude.items())
        return next((held for held in found if held is not None), None)

    def excluded_topic(self, messages: list[Message]) -> TopicSign | None:
        """The topic that leaves a prompt out, if the user asks for one of those excluded."""
        if not self.dataset.exclude_topics:
            return None
        turns = [message["content"] for message in messages if message["role"] == "user"]
        signs = {found.topic: found for turn in turns if (found := find_topic(turn))}
        return next((signs[topic] for topic in self.dataset.exclude_topics if topic in signs), None)

    def watch(self) -> PathWatch:
        """A watch over every path that the mapping reads."""
        paths = itertools.chain(self._exclude, *map(paths_of, self.fields.values()))
        return PathWatch(f"the data set {self.dataset.name}", self.dataset.path, paths)

    def prompt(self, row: Row) -> dict[str, Any]:
        """The row of the prompts table.

        Raises:
            RowError: the row lacks a field, or it has the wrong form.
        """
        dataset = self.dataset
        messages = _checked_length(read_messages(self.fields, row, dataset.turn_marker))
        gold, entry_point, own_id = (
            self._text(name, row) for name in ("gold", "entry_point", "id")
        )
        return {
            "prompt_id": prompt_id(messages),
            "dedupe_key": dedupe_key(messages),
            "dataset": dataset.name,
            "domain": dataset.domain,
            "split": dataset.split,
            "language": dataset.language,
            "messages": messages,
            "verifier": dataset.verifier,
            "gold": gold,
            "tests": self._tests(row),
            "entry_point": entry_point,
            "origin": f"{dataset.name}:{row.number if own_id is None else own_id}",
        }

    def _text(self, name: str, row: Row) -> str | None:
        field = self.fields.get(name)
        return None if field is None else text_of(field.read(row.columns), f"fields.{name}")

    def _tests(self, row: Row) -> str | None:
        """One program text; a list of statements (as in MBPP) becomes its lines."""
        if "tests" not in self.fields:
            return None
        value = self.fields["tests"].read(row.columns)
        lines = value if isinstance(value, list) else [value]
        return "\n".join(checked_text(line, "fields.tests") for line in lines)


def read_messages(
    fields: dict[str, Field], row: Row, turn_marker: str | None = None
) -> list[Message]:
    """The prompt that `fields.messages` or `fields.prompt` finds in a row.

    Raises:
        RowError: there is none, or it is no conversation that a user ends.
    """
    if "messages" in fields:
        return history(fields["messages"].read(row.columns))
    text = checked_text(fields["prompt"].read(row.columns), "fields.prompt")
    return marked_turns(text, turn_marker) if turn_marker else user_turn(text)


def map_rows(mapping: PromptMapping, rows: Read) -> Iterator[Mapped | Malformed | Dropped]:
    """Each row as a prompt, as malformed, or as dropped by a rule of its data set.

    Raises:
        BadInputError: no row at all has a path that the mapping reads.
    """
    watch = mapping.watch()
    for row in rows:
        if isinstance(row, Malformed):
            yield row
        else:
            watch.see(row.columns)
            yield _map_row(mapping, row)
    watch.check()


def _map_row(mapping: PromptMapping, row: Row) -> Mapped | Malformed | Dropped:
    if held := mapping.excluded_value(row):
        return Dropped(row.number, "excluded", held)
    try:
        prompt = mapping.prompt(row)
    except RowError as error:
        return Malformed(row.number, error.reason, error.detail)
    if found := mapping.excluded_topic(prompt["messages"]):
        return Dropped(row.number, f"{found.topic}_prompt", found.sign, prompt)
    return Mapped(row.number, prompt)


def _checked_length(messages: list[Message]) -> list[Message]:
    length = sum(len(message["content"]) for message in messages)
    if length > MAX_PROMPT_CHARACTERS:
        detail = f"it has {length:,} characters; at most {MAX_PROMPT_CHARACTERS:,} are read"
        raise RowError("too_long", detail)
    return messages


def _held(row: Row, path: Path, values: tuple[str, ...]) -> str | None:
    """The path with its value, if that is one of these."""
    try:
        value = path.read(row.columns)
        is_text = not isinstance(value, float) or math.isfinite(value)
        text = text_of(value, path.text) if is_text else str(value)
    except RowError:
        return None
    return f"{path.text}: {text}" if text in values else None
