"""Rows of the data sets to rows of the prompts table, every row accounted for."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from fusion.identity import content_hash, dedupe_key, prompt_id
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
from fusion.ingest.reading import DataPath, Read, read_rows
from fusion.ingest.rows import Malformed, Row, RowError, check_share, quarantine_rows
from fusion.recipe import Dataset, Recipe
from fusion.records import PROMPTS

# Goes up when the same files would give other prompts.
VERSION = 1
_SHAPING_KEYS = {
    "name", "domain", "verifier", "split", "language", "fields", "turn_marker", "exclude", "limit"
}  # fmt: skip


@dataclass(frozen=True)
class DatasetCounts:
    """What became of the rows of one data set."""

    entered: int
    results: int
    dropped: dict[str, int]
    quarantined: dict[str, int]


@dataclass(frozen=True)
class Ingested:
    """The prompts of a recipe, and what became of every row that entered."""

    prompts: pa.Table
    quarantined: pa.Table
    by_dataset: dict[str, DatasetCounts]


@dataclass(frozen=True)
class _DatasetPrompts:
    prompts: pa.Table
    quarantined: pa.Table
    counts: DatasetCounts


@dataclass
class _Seen:
    """Keys of the prompts taken so far; test prompts are read before train prompts."""

    test: set[str] = field(default_factory=set)
    train: set[str] = field(default_factory=set)

    def reason_to_drop(self, key: str, split: str) -> str | None:
        if split == "train" and key in self.test:
            return "held_out"
        keys = self.train if split == "train" else self.test
        if key in keys:
            return "duplicate"
        keys.add(key)
        return None


def ingest_key(recipe: Recipe) -> str:
    """Identity of a recipe's prompts: what shapes them in its data sets, and their content."""
    sections = [
        [dataset.model_dump(mode="json", include=_SHAPING_KEYS), DataPath.of(dataset).fingerprint()]
        for dataset in recipe.datasets
    ]
    return content_hash([VERSION, sections])


def ingest_datasets(recipe: Recipe) -> Ingested:
    """All prompts of a recipe, each once.

    A prompt that occurs again (case, width of characters and white space aside) is dropped by the
    rule `duplicate`, the first data set of the recipe winning; a train prompt that is a test
    prompt as well by the rule `held_out`; a row that the recipe excludes by the rule `excluded`.

    Raises:
        BadInputError: a file cannot be read, has no rows, lacks a mapped column, or has more
            malformed rows than the recipe allows.
    """
    seen = _Seen()
    test_first = sorted(recipe.datasets, key=lambda dataset: dataset.split != "test")
    mapped = {
        dataset.name: _ingest_dataset(dataset, seen, recipe.malformed_limit)
        for dataset in test_first
    }
    in_order = {dataset.name: mapped[dataset.name] for dataset in recipe.datasets}
    return Ingested(
        prompts=pa.concat_tables(each.prompts for each in in_order.values()),
        quarantined=pa.concat_tables(each.quarantined for each in in_order.values()),
        by_dataset={name: each.counts for name, each in in_order.items()},
    )


def _ingest_dataset(dataset: Dataset, seen: _Seen, malformed_limit: float) -> _DatasetPrompts:
    mapping = PromptMapping(dataset)
    prompts: list[dict[str, Any]] = []
    malformed: list[Malformed] = []
    dropped: Counter[str] = Counter()
    rows = itertools.islice(read_rows(DataPath.of(dataset)), dataset.limit)
    for outcome in map_rows(mapping, rows):
        if isinstance(outcome, Malformed):
            malformed.append(outcome)
        elif outcome is None:
            dropped["excluded"] += 1
        elif rule := seen.reason_to_drop(outcome["dedupe_key"], dataset.split):
            dropped[rule] += 1
        else:
            prompts.append(outcome)
    entered = len(prompts) + len(malformed) + dropped.total()
    check_share(f"The data set {dataset.name}", dataset.path, entered, malformed, malformed_limit)
    counts = DatasetCounts(
        entered, len(prompts), dict(dropped), dict(Counter(row.reason for row in malformed))
    )
    table = pa.Table.from_pylist(prompts, schema=PROMPTS)
    return _DatasetPrompts(table, quarantine_rows("ingest", dataset.name, malformed), counts)


class PromptMapping:
    """How the rows of one data set become prompts.

    Raises:
        BadInputError: a field of the data set is neither a path nor a template.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.fields = {name: parse_field(text) for name, text in dataset.fields.items()}
        self._exclude = {parse_path(path): values for path, values in dataset.exclude.items()}

    def is_excluded(self, row: Row) -> bool:
        """Whether the recipe leaves this row out by the value of one of its columns."""
        return any(_holds(row, path, values) for path, values in self._exclude.items())

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
        messages = read_messages(self.fields, row, dataset.turn_marker)
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


def map_rows(mapping: PromptMapping, rows: Read) -> Iterator[dict[str, Any] | Malformed | None]:
    """Each row as a prompt, as malformed, or as None where the recipe leaves it out.

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


def _map_row(mapping: PromptMapping, row: Row) -> dict[str, Any] | Malformed | None:
    if mapping.is_excluded(row):
        return None
    try:
        return mapping.prompt(row)
    except RowError as error:
        return Malformed(row.number, error.reason, error.detail)


def _holds(row: Row, path: Path, values: tuple[str, ...]) -> bool:
    try:
        return text_of(path.read(row.columns), path.text) in values
    except RowError:
        return False
