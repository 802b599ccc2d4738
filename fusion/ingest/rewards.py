"""Rewards that were made elsewhere, joined to answers by identity or by prompt and text."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from fusion.identity import prompt_id
from fusion.ingest.fields import PathWatch, checked_number, parse_field, paths_of, text_of
from fusion.ingest.prompts import read_messages
from fusion.ingest.reading import DataPath, Read, read_rows
from fusion.ingest.rows import Malformed, Row, RowError, check_share, quarantine_rows
from fusion.recipe import Reward
from fusion.rewards.judgement import Judgement

_Key = tuple[str, ...]


@dataclass(frozen=True)
class ImportedRewards:
    """One judgement an answer, in their order, and what became of the other rows of the file."""

    judgements: list[Judgement]
    quarantined: pa.Table
    num_unmatched: int
    """Rewards of none of the answers."""
    num_repeated: int
    """Rows that judge what a row before them judged."""


@dataclass
class _File:
    """The rewards that a file holds, by what they judge."""

    rewards: dict[_Key, float] = field(default_factory=dict)
    malformed: list[Malformed] = field(default_factory=list)
    num_repeated: int = 0


def import_rewards(
    reward: Reward, reward_key: str, answers: pl.DataFrame, *, malformed_limit: float
) -> ImportedRewards:
    """The rewards of `answers` in a file; of an answer that is judged twice the first.

    `answers` needs the columns response_id, prompt_id and text. An answer without a reward in the
    file fails with the reason `not_imported`. Malformed rows are known by `reward_key`.

    Raises:
        BadInputError: the file cannot be read, has no rows or lacks a mapped column, or more of
            its rows are malformed than `malformed_limit` allows.
    """
    file = _read(reward, malformed_limit)
    columns = ["response_id"] if "response_id" in reward.fields else ["prompt_id", "text"]
    missing = Judgement(failure="not_imported", detail=f"{reward.path} has no usable reward of it")
    judgements = []
    unmatched = set(file.rewards)
    # Row by row: as Python tuples all texts at once would take gigabytes.
    for key in answers.select(columns).iter_rows():
        value = file.rewards.get(key)
        judgements.append(missing if value is None else Judgement(value))
        unmatched.discard(key)
    return ImportedRewards(
        judgements,
        quarantine_rows("score", reward_key, file.malformed),
        num_unmatched=len(unmatched),
        num_repeated=file.num_repeated,
    )


def _read(reward: Reward, malformed_limit: float) -> _File:
    file = _File()
    num_rows = 0
    data = DataPath(str(reward.path), reward.revision)
    for outcome in map_rewards(reward, read_rows(data)):
        num_rows += 1
        if isinstance(outcome, Malformed):
            file.malformed.append(outcome)
        elif outcome[0] in file.rewards:
            file.num_repeated += 1
        else:
            key, value = outcome
            file.rewards[key] = value
    what, path = "The file of rewards", str(reward.path)
    check_share(what, path, num_rows, file.malformed, malformed_limit)
    return file


def map_rewards(reward: Reward, rows: Read) -> Iterator[tuple[_Key, float] | Malformed]:
    """What each row of the file judges and its reward, or why it has none.

    Raises:
        BadInputError: no row has a mapped column.
    """
    fields = {name: parse_field(text) for name, text in reward.fields.items()}
    paths = itertools.chain(*map(paths_of, fields.values()))
    watch = PathWatch("the reward", str(reward.path), paths)

    def key(row: Row) -> _Key:
        if "response_id" in fields:
            return (text_of(fields["response_id"].read(row.columns), "fields.response_id"),)
        text = text_of(fields["text"].read(row.columns), "fields.text")
        return (prompt_id(read_messages(fields, row, reward.turn_marker)), text)

    for row in rows:
        if isinstance(row, Malformed):
            yield row
            continue
        watch.see(row.columns)
        try:
            value = checked_number(fields["reward"].read(row.columns), "fields.reward")
            yield key(row), value
        except RowError as error:
            yield Malformed(row.number, error.reason, error.detail)
    watch.check()
