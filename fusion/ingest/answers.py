"""Answers that were sampled elsewhere, as rows of the responses table."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from fusion.errors import BadInputError
from fusion.identity import prompt_id, response_id
from fusion.ingest.fields import PathWatch, checked_text, parse_field, paths_of, text_of
from fusion.ingest.prompts import read_messages
from fusion.ingest.reading import DataPath, Read, read_rows
from fusion.ingest.rows import (
    DatasetCounts,
    Malformed,
    Row,
    RowError,
    check_share,
    quarantine_rows,
)
from fusion.recipe import Source
from fusion.records import RESPONSES


@dataclass(frozen=True)
class ImportedAnswers:
    """Rows of the responses table, and what became of every row of the file."""

    responses: pa.Table
    quarantined: pa.Table
    counts: DatasetCounts


@dataclass(frozen=True)
class Answer:
    """A text, and the id of the prompt it answers; empty when the origin is unknown."""

    prompt_id: str
    text: str


class AnswerMapping:
    """How the rows of a source's file become answers to `prompts`.

    Raises:
        BadInputError: a field of the source is neither a path nor a template.
    """

    def __init__(self, source: Source, prompts: pl.DataFrame) -> None:
        self.source = source
        self.fields = {name: parse_field(text) for name, text in source.fields.items()}
        self._by_origin: dict[str, set[str]] = defaultdict(set)
        for origin, prompt in prompts.select("origin", "prompt_id").iter_rows():
            self._by_origin[origin].add(prompt)

    def watch(self) -> PathWatch:
        """A watch over every path that the mapping reads."""
        paths = itertools.chain(*map(paths_of, self.fields.values()))
        return PathWatch(f"the source {self.source.name}", str(self.source.path), paths)

    def answer(self, row: Row) -> Answer:
        """The answer in a row.

        Raises:
            RowError: the row lacks a field, or it has the wrong form.
        """
        text = checked_text(self.fields["text"].read(row.columns), "fields.text")
        return Answer(self._prompt_id(row), text)

    def _prompt_id(self, row: Row) -> str:
        if "id" not in self.fields:
            return prompt_id(read_messages(self.fields, row, self.source.turn_marker))
        own_id = text_of(self.fields["id"].read(row.columns), "fields.id")
        found = self._by_origin.get(f"{self.source.dataset}:{own_id}", {""})
        if len(found) > 1:
            detail = f"several prompts of the data set {self.source.dataset} have the id {own_id}"
            raise RowError("ambiguous_id", detail)
        return next(iter(found))


def import_answers(
    source: Source, source_key: str, prompts: pl.DataFrame, *, malformed_limit: float
) -> ImportedAnswers:
    """The answers in the file of a source of kind imported, joined to `prompts` by identity.

    Several answers to one prompt are numbered in the order of the file. An answer is dropped by
    the rule `no_prompt` when none of `prompts` is its prompt, `not_asked` when the source is not
    asked prompts of that domain, `empty` when there is no text. `prompts` needs the columns
    prompt_id, domain and origin.

    Raises:
        BadInputError: the file cannot be read, has no rows, or has more malformed rows than
            `malformed_limit` allows; or no row has a mapped field.
    """
    mapping = AnswerMapping(source, prompts)
    domains = dict(zip(prompts["prompt_id"], prompts["domain"], strict=True))
    responses: list[dict[str, Any]] = []
    malformed: list[Malformed] = []
    dropped: Counter[str] = Counter()
    sample_indexes: Counter[str] = Counter()
    for answer in map_answers(mapping, read_rows(DataPath.of(source))):
        if isinstance(answer, Malformed):
            malformed.append(answer)
        elif rule := _reason_to_drop(source, answer, domains):
            dropped[rule] += 1
        else:
            index = sample_indexes[answer.prompt_id]
            sample_indexes[answer.prompt_id] += 1
            responses.append(_response(source, source_key, answer, index))
    entered = len(responses) + len(malformed) + dropped.total()
    check_share(f"The source {source.name}", str(source.path), entered, malformed, malformed_limit)
    if dropped["no_prompt"] == entered:
        raise BadInputError(
            f"None of the {entered} answers in {source.path} has a prompt of this recipe; "
            f"the source {source.name} must map its fields as the data set does."
        )
    counts = DatasetCounts(
        entered, len(responses), dict(dropped), dict(Counter(row.reason for row in malformed))
    )
    table = pa.Table.from_pylist(responses, schema=RESPONSES)
    return ImportedAnswers(table, quarantine_rows("sample", source.name, malformed), counts)


def map_answers(mapping: AnswerMapping, rows: Read) -> Iterator[Answer | Malformed]:
    """Each row as an answer or as malformed.

    Raises:
        BadInputError: no row at all has a path that the mapping reads.
    """
    watch = mapping.watch()
    for row in rows:
        if isinstance(row, Malformed):
            yield row
            continue
        watch.see(row.columns)
        try:
            yield mapping.answer(row)
        except RowError as error:
            yield Malformed(row.number, error.reason, error.detail)
    watch.check()


def _reason_to_drop(source: Source, answer: Answer, domains: dict[str, str]) -> str | None:
    if answer.prompt_id not in domains:
        return "no_prompt"
    if not source.asks(domains[answer.prompt_id]):
        return "not_asked"
    return None if answer.text.strip() else "empty"


def _response(source: Source, source_key: str, answer: Answer, index: int) -> dict[str, Any]:
    return {
        "response_id": response_id(answer.prompt_id, source_key, index),
        "prompt_id": answer.prompt_id,
        "source": source.name,
        "source_key": source_key,
        "sample_index": index,
        "text": answer.text,
        "finish_reason": "stop",
    }
