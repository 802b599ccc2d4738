"""Have one source answer blocks of requests: as many in flight as its engine wants, no barriers."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from ray.serve.handle import DeploymentHandle

from fusion.errors import CrucibleError, one_line
from fusion.failures import FAILURES_BEFORE_A_STOP, Failure, exceeds, say_excess
from fusion.identity import response_id
from fusion.recipe import Failures, Sampling
from fusion.store import Table
from fusion.window import FIRST_WINDOW
from jobs.backlog import Backlog
from jobs.committing import Commits
from services.answers import Answer, Manner, SampleRequest, SourceDiedError, Wanted
from services.applications import DEATHS, PAUSE_AFTER_DEATH_S, condition, handle

log = logging.getLogger(__name__)

# Besides the answers that the engine decodes, as many wait in the replica to follow them.
WINDOWS_SENT = 2
CALLS_A_WINDOW = 4
LEAST_ANSWERS_A_CALL = 8
LOOK_AROUND_S = 5.0

OUTCOME = pa.schema([("fault", pa.string())])
_DEATHS = (*DEATHS, SourceDiedError)


class Source(NamedTuple):
    """Who is asked, and where the answers go."""

    name: str
    application: str
    responses: Table
    quarantine: Table
    patience: Failures


class Asker:
    """A Ray Data actor that has its source answer a few blocks at a time.

    It commits by itself: what passes through Ray Data would wait for the slowest answer of its
    block, and a task that Ray runs again must give its rows in the same order, which answers
    that stream do not. Such a task asks only for what the store lacks.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._handle = handle(source.application).options(stream=True)

    async def __call__(self, block: pa.Table) -> AsyncIterator[pa.Table]:
        """Answer a block; yields why sampling has to stop, null where it need not."""
        rows = block.to_pylist()
        manner = Manner(
            source_key=rows[0]["source_key"],
            sampling=Sampling.model_validate_json(rows[0]["sampling"]),
            timeout_s=self._source.patience.timeout_s,
            keeps_all=rows[0]["keeps_all"],
        )
        stored = self._source.responses.partition(manner.source_key)
        fault = None
        try:
            requests = await asyncio.to_thread(unanswered, rows, manner.source_key, stored)
            await BlockAsking(self._source, self._handle, requests, manner).run()
        except CrucibleError as error:
            fault = str(error)
        yield pa.Table.from_pylist([{"fault": fault}], OUTCOME)


class BlockAsking:
    """A block of requests on its way through a source."""

    def __init__(
        self,
        source: Source,
        sources: DeploymentHandle,
        requests: Sequence[SampleRequest],
        manner: Manner,
    ) -> None:
        self._source = source
        self._handle = sources
        self._manner = manner
        self._backlog = Backlog(requests, manner)
        self._commits = Commits(source.responses, source.quarantine, source.name, manner.source_key)
        self._window = FIRST_WINDOW
        self._news = asyncio.Event()
        self._heard_at = time.monotonic()
        self._resume_at = 0.0
        self._death = ""
        self._examples: list[Failure] = []
        self._num_settled = 0
        self._num_failed = 0

    async def run(self) -> None:
        """Ask until every answer is settled and committed.

        Raises:
            CrucibleError: too many answers fail, the source stays away, or the storage does.
        """
        calls: set[asyncio.Task[None]] = set()
        try:
            while not self._backlog.is_settled:
                calls |= self._send()
                await self._wait_for_news()
                for call in [call for call in calls if call.done()]:
                    calls.discard(call)
                    call.result()
                self._check_share()
                await self._check_silence()
                await self._commits.write()
        finally:
            for call in calls:
                call.cancel()
            await self._commits.write(all_=True)

    def _send(self) -> set[asyncio.Task[None]]:
        """New calls, until as much is asked for as the engine has use for."""
        calls: set[asyncio.Task[None]] = set()
        size = max(LEAST_ANSWERS_A_CALL, self._window // CALLS_A_WINDOW)
        while time.monotonic() >= self._resume_at:
            room = WINDOWS_SENT * self._window - self._backlog.num_sent
            requests = self._backlog.take(min(size, room))
            if not requests:
                break
            calls.add(asyncio.create_task(self._call(requests)))
        return calls

    async def _call(self, requests: Sequence[SampleRequest]) -> None:
        is_accepted = False
        try:
            async for finished in self._handle.sample.remote(requests, self._manner):
                is_accepted = True
                self._window = finished.window
                self._heard_at, self._death = time.monotonic(), ""
                kept = [self._backlog.settle(answer) for answer in finished.answers]
                self._take([answer for answer in kept if answer])
                self._news.set()
        except _DEATHS as error:
            self._bury(requests, one_line(error), is_accepted)
        finally:
            self._news.set()

    def _bury(self, requests: Sequence[SampleRequest], cause: str, is_accepted: bool) -> None:
        """Take back what a call that died has left; only one that was accepted counts as a try."""
        now = time.monotonic()
        self._resume_at = now + PAUSE_AFTER_DEATH_S
        if is_accepted or not self._death:
            self._heard_at = now
        if not self._death:
            log.warning("source %s died and is waited for: %s", self._source.name, cause)
        self._death = cause
        self._take(self._backlog.lose(requests, cause, counts=is_accepted))

    def _take(self, settled: Sequence[Answer]) -> None:
        self._num_settled += len(settled)
        for answer in settled:
            if answer.failure:
                self._num_failed += 1
                failure = Failure(answer.response_id, answer.failure, answer.detail)
                self._examples = [*self._examples[-2:], failure]
        self._commits.add(settled)

    async def _wait_for_news(self) -> None:
        until_resumed = self._resume_at - time.monotonic()
        patience = until_resumed if until_resumed > 0 else LOOK_AROUND_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), patience)
        self._news.clear()

    def _check_share(self) -> None:
        limit = self._source.patience.limit
        failed, asked = self._num_failed, self._num_settled + self._backlog.num_sent
        if failed >= FAILURES_BEFORE_A_STOP and exceeds(failed, asked, limit):
            raise CrucibleError(say_excess(self._source.name, failed, asked, limit, self._examples))

    async def _check_silence(self) -> None:
        patience = self._source.patience
        limit = patience.wait_s if self._death else patience.timeout_s + patience.wait_s
        if time.monotonic() - self._heard_at <= limit:
            return
        told = await asyncio.to_thread(condition, self._source.application)
        what = f"died ({self._death})" if self._death else "gives no sign of life"
        raise CrucibleError(
            f"The source {self._source.name} {what} and did not come back within {limit:g} s; Ray "
            f"Serve says: {told}. Mend the cause, or raise failures.wait_s, and start the same "
            "command again: what is committed is kept."
        )


def unanswered(
    rows: Sequence[dict[str, Any]], source_key: str, stored: Table
) -> list[SampleRequest]:
    """The requests of a block, less the answers that were committed since they were made."""
    ids = {
        (row["prompt_id"], index): response_id(row["prompt_id"], source_key, index)
        for row in rows
        for index in row["sample_indexes"]
    }
    missing = set(stored.missing(list(ids.values())).to_pylist())
    requests = []
    for row in rows:
        prompt = row["prompt_id"]
        wanted = [Wanted(i) for i in row["sample_indexes"] if ids[prompt, i] in missing]
        if wanted:
            requests.append(SampleRequest(prompt, row["messages"], wanted))
    return requests
