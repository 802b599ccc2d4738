"""Answers become parts of a few hundred rows; failures go to quarantine with their attempts."""

import asyncio
import os

import pytest

from fusion.errors import CrucibleError
from fusion.records import TABLES
from fusion.store import Location, Table
from jobs import committing
from jobs.committing import ROWS_A_PART, Commits
from services.answers import Answer


def _tables(folder) -> tuple[Table, Table]:
    made = []
    for name in ("responses", "quarantine"):
        kind = TABLES[name]
        made.append(Table(Location.of(folder / name), kind.schema, kind.id_column))
    return made[0], made[1]


def _answers(count: int, failure: str | None = None) -> list[Answer]:
    return [
        Answer(f"{failure}-{n}", "p", n, seed=n, text="t", failure=failure, detail="d", attempts=3)
        for n in range(count)
    ]


def test_a_part_is_written_when_it_is_large_enough(tmp_path):
    responses, quarantine = _tables(tmp_path)
    commits = Commits(responses, quarantine, "one", "one-key")

    async def scene():
        commits.add(_answers(ROWS_A_PART - 1))
        await commits.write()
        assert responses.num_rows == 0
        commits.add([Answer("last", "p", 0, seed=0)])
        await commits.write()

    asyncio.run(scene())
    assert responses.partition("one-key").num_rows == ROWS_A_PART
    assert set(responses.read()["source"].to_pylist()) == {"one"}


def test_a_minute_is_the_longest_that_an_answer_waits(tmp_path, monkeypatch):
    responses, quarantine = _tables(tmp_path)
    commits = Commits(responses, quarantine, "one", "one-key")
    commits.add(_answers(1))
    monkeypatch.setattr(committing, "SECONDS_A_PART", 0.0)
    asyncio.run(commits.write())
    assert responses.num_rows == 1


def test_a_failure_goes_to_quarantine_with_its_attempts(tmp_path):
    responses, quarantine = _tables(tmp_path)
    commits = Commits(responses, quarantine, "one", "one-key")
    commits.add([*_answers(2), *_answers(1, "timeout")])
    asyncio.run(commits.write(all_=True))
    assert responses.num_rows == 2
    (row,) = quarantine.read().to_pylist()
    assert (row["stage"], row["reason"], row["attempts"]) == ("sample", "timeout", 3)


@pytest.fixture
def broken_storage(tmp_path, monkeypatch):
    """Tables in a folder that takes no file, as a disk without room does not."""
    monkeypatch.setattr(committing, "PAUSES_S", (0.1, 0.1, 0.1))
    responses, quarantine = _tables(tmp_path)
    (tmp_path / "responses").mkdir()
    (tmp_path / "responses" / "one-key").write_text("a file where the folder should be")
    return responses, quarantine


def test_a_storage_that_comes_back_is_waited_for(broken_storage, tmp_path):
    commits = Commits(*broken_storage, "one", "one-key")
    commits.add(_answers(1))

    async def scene():
        writing = asyncio.create_task(commits.write(all_=True))
        await asyncio.sleep(0.05)
        os.unlink(tmp_path / "responses" / "one-key")
        await writing

    asyncio.run(scene())
    assert broken_storage[0].num_rows == 1


def test_a_storage_that_stays_away_ends_with_the_cause(broken_storage):
    commits = Commits(*broken_storage, "one", "one-key")
    commits.add(_answers(1))
    with pytest.raises(CrucibleError, match=r"1 answers could not be written .*one-key"):
        asyncio.run(commits.write(all_=True))
