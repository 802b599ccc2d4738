"""Answers gathered and committed in parts, so that a crash loses little and parts are not tiny."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import asdict

import pyarrow as pa

from fusion.errors import CrucibleError
from fusion.records import QUARANTINE, RESPONSES
from fusion.store import StorageAwayError, Table
from services.answers import Answer

STAGE = "sample"
ROWS_A_PART = 256
SECONDS_A_PART = 60.0
# A storage that hiccups is waited for.
PAUSES_S = (1, 2, 4, 8, 16, 32)


class Commits:
    """Commits answers of one source key to `responses`, and final failures to quarantine."""

    def __init__(self, responses: Table, quarantine: Table, source: str, source_key: str) -> None:
        self._responses = responses.partition(source_key)
        self._quarantine = quarantine
        self._labels = {"source": source, "source_key": source_key}
        self._answers: list[Answer] = []
        self._failures: list[Answer] = []
        self._since = time.monotonic()

    def add(self, settled: Iterable[Answer]) -> None:
        """Take answers and final failures; `write` commits them."""
        for answer in settled:
            (self._failures if answer.failure else self._answers).append(answer)

    async def write(self, *, all_: bool = False) -> None:
        """Commit what there is, if it makes a part, has waited for a minute, or `all_` is asked.

        Raises:
            CrucibleError: the storage does not take it.
        """
        waiting = len(self._answers) + len(self._failures)
        is_due = waiting >= ROWS_A_PART or time.monotonic() - self._since >= SECONDS_A_PART
        if not (all_ or is_due):
            return
        answers, self._answers = self._answers, []
        failures, self._failures = self._failures, []
        self._since = time.monotonic()
        rows = [asdict(answer) | self._labels for answer in answers]
        await _append(self._responses, pa.Table.from_pylist(rows, RESPONSES))
        await _append(self._quarantine, _quarantine_rows(failures))


def _quarantine_rows(failures: list[Answer]) -> pa.Table:
    rows = [
        {
            "stage": STAGE,
            "id": failure.response_id,
            "reason": failure.failure,
            "detail": failure.detail,
            "attempts": failure.attempts,
        }
        for failure in failures
    ]
    return pa.Table.from_pylist(rows, QUARANTINE)


async def _append(table: Table, rows: pa.Table) -> None:
    for pause_s in PAUSES_S:
        try:
            await asyncio.to_thread(table.append, rows)
            return
        except StorageAwayError:
            raise  # it was waited for already
        except OSError:
            await asyncio.sleep(pause_s)
    try:
        await asyncio.to_thread(table.append, rows)
    except StorageAwayError:
        raise
    except OSError as error:
        raise CrucibleError(
            f"{rows.num_rows} answers could not be written to {table.location} within "
            f"{sum(PAUSES_S)} s ({error}); make room or mend the storage, and start the same "
            "command again."
        ) from None
