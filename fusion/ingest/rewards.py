"""Rewards that were made elsewhere, joined to answers by identity or by prompt and text."""

from collections.abc import Iterator

import polars as pl

from fusion.identity import prompt_id
from fusion.ingest.fields import PathWatch, checked_number, parse_field, paths_of, text_of
from fusion.ingest.prompts import read_messages
from fusion.ingest.reading import DataPath, Read, read_rows
from fusion.ingest.rows import Malformed, Row, RowError, check_share
from fusion.recipe import Reward
from fusion.rewards.judgement import Judgement

_Key = tuple[str, ...]


def import_rewards(
    reward: Reward, answers: pl.DataFrame, *, malformed_limit: float
) -> list[Judgement]:
    """One judgement an answer, in their order; of an answer that is judged twice the first.

    `answers` needs the columns response_id, prompt_id and text. An answer without a reward in the
    file fails with the reason `not_imported`.

    Raises:
        BadInputError: the file cannot be read, has no rows or lacks a mapped column, or more of
            its rows are malformed than `malformed_limit` allows.
    """
    rewards = _read(reward, malformed_limit)
    by_id = "response_id" in reward.fields
    columns = ["response_id"] if by_id else ["prompt_id", "text"]
    missing = Judgement(failure="not_imported", detail=f"{reward.path} has no reward of it")
    return [
        Judgement(rewards[key]) if key in rewards else missing
        for key in answers.select(columns).iter_rows()
    ]


def _read(reward: Reward, malformed_limit: float) -> dict[_Key, float]:
    found: dict[_Key, float] = {}
    malformed = []
    num_rows = 0
    data = DataPath(str(reward.path), reward.revision)
    for outcome in map_rewards(reward, read_rows(data)):
        num_rows += 1
        if isinstance(outcome, Malformed):
            malformed.append(outcome)
        else:
            key, value = outcome
            found.setdefault(key, value)
    check_share("The file of rewards", str(reward.path), num_rows, malformed, malformed_limit)
    return found


def map_rewards(reward: Reward, rows: Read) -> Iterator[tuple[_Key, float] | Malformed]:
    """What each row of the file judges and its reward, or why it has none.

    Raises:
        BadInputError: no row has a mapped column.
    """
    fields = {name: parse_field(text) for name, text in reward.fields.items()}
    paths = [path for field in fields.values() for path in paths_of(field)]
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
