"""One conversation to several sources at once: answers stream as they come, judged if asked."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from fusion.errors import CrucibleError
from fusion.verification import Malformed, Task
from services.answers import Reply
from services.gateway.accounts import Use
from services.gateway.desk import Desk, Visit, source_down
from services.gateway.documents import TEXT_STREAM
from services.gateway.events import chunk_of, delta_of, event
from services.gateway.refusals import RefusedError, documented
from services.gateway.requests import FanoutRequest, check_fanout
from services.gateway.sources import SourceDownError

router = APIRouter(tags=["fan-out"])


@router.post(
    "/v1/fanout",
    response_class=StreamingResponse,
    responses={
        **documented(400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
        200: {
            "content": TEXT_STREAM,
            "description": "Events delta, answer, error and, at the end, done.",
        },
    },
)
async def fanout(request: Request, body: FanoutRequest) -> StreamingResponse:
    """Ask several sources the same; one that fails or is down is an event, not a failed call."""
    visit = Visit.of(request)
    desk = visit.desk
    check_fanout(body, desk.limits, has_reward=desk.sources.has_reward)
    for name in body.models or ():
        visit.check_may_ask(name)
    names = body.models or [n for n in visit.allowed() if n in desk.sources.up()]
    if not names:
        raise RefusedError(503, "No source that your key may ask is up.", retry_after_s=5)
    visit.account.question = [turn.model_dump() for turn in body.messages]
    return StreamingResponse(_events(visit, body, names), media_type="text/event-stream")


@dataclass(frozen=True)
class Judged:
    """What reward model and verifier say of an answer."""

    reward: float | None = None
    verdict: str | None = None
    reason: str | None = None


async def _events(visit: Visit, body: FanoutRequest, names: list[str]) -> AsyncGenerator[str, None]:
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    asked = [_Asked(visit, body, name, index, queue) for name in names for index in range(body.n)]
    up = visit.desk.sources.up()
    for name in names:
        if name not in up:
            yield _error(name, None, source_down(name, "it is down"))
    tasks = [asyncio.create_task(one.run()) for one in asked if one.name in up]
    left = len(tasks)
    try:
        while left:
            told = await queue.get()
            if told is None:
                left -= 1
            else:
                yield told
        yield event("done", {})
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Asked:
    """One answer of one source, told to a queue as it comes; None says that it is over."""

    def __init__(
        self,
        visit: Visit,
        body: FanoutRequest,
        name: str,
        index: int,
        queue: "asyncio.Queue[str | None]",
    ) -> None:
        self.name = name
        self._visit = visit
        self._desk: Desk = visit.desk
        self._body = body
        self._index = index
        self._queue = queue
        self._text: list[str] = []
        self._finish_reason = "unknown"

    async def run(self) -> None:
        """Ask, pass on, judge; a failure is told as well."""
        try:
            with self._visit.asking(self.name) as use:
                await self._answer(use)
            await self._tell_answer(use)
        except RefusedError as error:
            self._queue.put_nowait(_error(self.name, self._index, error))
        except SourceDownError as error:
            refused = source_down(self.name, str(error))
            self._queue.put_nowait(_error(self.name, self._index, refused))
        finally:
            self._queue.put_nowait(None)

    async def _answer(self, use: Use) -> None:
        try:
            await self._stream(use)
        except (SourceDownError, RefusedError):
            use.end("failed")
            raise
        use.end("answered")

    async def _stream(self, use: Use) -> None:
        request, longest = self._request()
        async with aclosing(self._desk.sources.ask(self.name, "chat", request, longest)) as parts:
            async for part in parts:
                if isinstance(part, Reply):
                    raise RefusedError(part.status, part.message, param=part.param)
                for text in part:
                    self._take(chunk_of(text), use)

    def _request(self) -> tuple[dict[str, Any], int]:
        """What the source is sent: as the recipe samples it, but for what the request says."""
        sampling = self._desk.run.recipe.source(self.name).sampling.model_dump()
        longest = min(sampling.pop("max_tokens"), self._desk.limits.max_tokens)
        sampling["stop"] = list(sampling["stop"])
        request = {
            "model": self.name,
            "messages": [turn.model_dump() for turn in self._body.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            **sampling,
            **self._body.changes(),
        }
        if self._body.seed is not None:
            request["seed"] = self._body.seed + self._index
        return request, longest

    def _take(self, chunk: dict[str, Any] | None, use: Use) -> None:
        if chunk is None:
            return
        if error := chunk.get("error"):
            raise SourceDownError(str(error.get("message", "it failed")))
        if usage := chunk.get("usage"):
            use.prompt_tokens = usage.get("prompt_tokens") or 0
            use.completion_tokens = usage.get("completion_tokens") or 0
        for choice in chunk["choices"]:
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            if text := delta_of(choice):
                use.saw_text()
                self._text.append(text)
                told = {"model": self.name, "index": self._index, "text": text}
                self._queue.put_nowait(event("delta", told))

    async def _tell_answer(self, use: Use) -> None:
        text = use.text = "".join(self._text)
        judged = await _judge(self._desk, self._body, text)
        first = use.first_token_s if use.first_token_s is not None else use.seconds
        told = {
            "model": self.name,
            "index": self._index,
            "text": text,
            "finish_reason": self._finish_reason,
            "usage": {
                "prompt_tokens": use.prompt_tokens,
                "completion_tokens": use.completion_tokens,
            },
            "first_token_ms": round((first or 0.0) * 1000, 1),
            "latency_ms": round((use.seconds or 0.0) * 1000, 1),
            "reward": judged.reward,
            "verdict": judged.verdict,
            "reason": judged.reason,
        }
        self._queue.put_nowait(event("answer", told))


async def _judge(desk: Desk, body: FanoutRequest, text: str) -> Judged:
    reward, reason = await _reward(desk, body, text) if body.score else (None, None)
    if body.gold is None or body.verifier is None:
        return Judged(reward=reward, reason=reason)
    task = Task(verifier=body.verifier, response=text, gold=body.gold)
    try:
        (outcome,) = await asyncio.to_thread(desk.verifiers.verify, [task])
    except CrucibleError as error:
        return Judged(reward=reward, reason=str(error))
    if isinstance(outcome, Malformed):
        return Judged(reward=reward, reason=outcome.detail)
    return Judged(reward, "correct" if outcome.correct else "wrong", reason or outcome.reason)


async def _reward(desk: Desk, body: FanoutRequest, text: str) -> tuple[float | None, str | None]:
    turns = [turn.model_dump() for turn in body.messages]
    conversation = [*turns, {"role": "assistant", "content": text}]
    try:
        (judgement,) = await desk.sources.score([conversation])
    except SourceDownError as error:
        return None, f"not scored: {error}"
    return judgement.reward, f"not scored: {judgement.detail}" if judgement.failure else None


def _error(name: str, index: int | None, refused: RefusedError) -> str:
    return event("error", {"model": name, "index": index, **refused.body()})
