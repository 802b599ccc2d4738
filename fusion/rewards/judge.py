"""A language model as judge, over any OpenAI-compatible endpoint.

Ratings and comparisons in both orders follow "Judging LLM-as-a-Judge with MT-Bench and Chatbot
Arena" (arXiv 2306.05685): asking twice with the answers swapped takes the judge's liking for one
place out of the result.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import httpx

from fusion.errors import CrucibleError
from fusion.identity import content_hash, sampling_seed
from fusion.recipe import Judge
from fusion.rewards.judgement import Judgement
from fusion.rewards.questions import (
    Message,
    ask_for_choice,
    ask_for_rating,
    read_choice,
    read_rating,
)

# Busy, or out of order for a while: worth asking again. Anything else is refused for good.
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504}
_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True)
class Case:
    """One answer to be judged.

    Attributes:
        messages: the prompt.
        answer: the text to be judged.
        others: the answers it is compared with, for pairwise.
    """

    messages: Sequence[Message]
    answer: str
    others: Sequence[str] = field(default=())


class Reply(NamedTuple):
    """What was read from a judge's reply, and the reply with the seed that brings it again."""

    value: float
    said: str


class JudgeError(CrucibleError):
    """The endpoint gave no usable judgement."""

    def __init__(self, failure: str, detail: str) -> None:
        super().__init__(detail)
        self.failure = failure


class JudgeClient:
    """Asks one model for judgements, many at once, within an `async with` block.

    Equal questions are asked once: two answers that are compared share what was said of them.

    Args:
        judge: where and how.
        model: the judge's name at the endpoint.
    """

    def __init__(self, judge: Judge, model: str) -> None:
        self._judge = judge
        self._model = model
        self._slots = asyncio.Semaphore(judge.at_once)
        self._asked: dict[str, asyncio.Task[Reply]] = {}
        self._http = httpx.AsyncClient(
            base_url=judge.url.rstrip("/"), timeout=judge.timeout_s, headers=_headers(judge)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def judge(self, case: Case) -> Judgement:
        """The reward of one answer, with what the judge said; or why there is none."""
        try:
            if self._judge.comparison == "pointwise":
                return await self._rate(case)
            return await self._compare(case)
        except JudgeError as error:
            return Judgement(failure=error.failure, detail=str(error))

    async def _rate(self, case: Case) -> Judgement:
        question = ask_for_rating(self._judge, case.messages, case.answer)
        reply = await self._ask(question, lambda text: read_rating(self._judge, text))
        return Judgement(reply.value, reason=reply.said)

    async def _compare(self, case: Case) -> Judgement:
        if not case.others:
            raise JudgeError("alone", "there is no other answer of its source to compare with")
        questions = [
            (ask_for_choice(self._judge, case.messages, *pair), is_first)
            for other in case.others
            for pair, is_first in (((case.answer, other), True), ((other, case.answer), False))
        ]
        replies = await asyncio.gather(*(self._ask(q, read_choice) for q, _ in questions))
        wins = [
            reply.value if is_first else 1 - reply.value
            for reply, (_, is_first) in zip(replies, questions, strict=True)
        ]
        said = "\n\n".join(reply.said for reply in replies)
        return Judgement(sum(wins) / len(wins), reason=said)

    async def _ask(self, question: list[Message], read: Callable[[str], float | None]) -> Reply:
        key = content_hash(question)
        if key not in self._asked:
            self._asked[key] = asyncio.create_task(self._ask_until_clear(question, read))
        return await self._asked[key]

    async def _ask_until_clear(
        self, question: list[Message], read: Callable[[str], float | None]
    ) -> Reply:
        """A reply that can be read; an attempt's seed is a hash, so that it comes again."""
        failure = detail = ""
        for attempt in range(self._judge.attempts):
            pause_s = 2.0**attempt
            seed = sampling_seed(content_hash([question, attempt]))
            try:
                async with self._slots:
                    text = await self._complete(question, seed)
            except httpx.TransportError as error:
                failure, detail = "judge_failed", f"{type(error).__name__}: {error}"
            except httpx.HTTPStatusError as error:
                response = error.response
                failure, detail = "judge_failed", f"{response.status_code}: {response.text[:200]}"
                if response.status_code not in _PASSING:
                    break
                pause_s = _retry_after_s(response, pause_s)
            else:
                if (value := read(text)) is not None:
                    return Reply(value, f"{text}\n[seed {seed}]")
                failure, detail = "judge_unclear", text[-200:]
                continue  # another seed, at once
            if attempt + 1 < self._judge.attempts:
                await asyncio.sleep(min(pause_s, _LONGEST_PAUSE_S))
        raise JudgeError(failure, detail)

    async def _complete(self, question: list[Message], seed: int) -> str:
        body = {
            "model": self._model,
            "messages": question,
            "temperature": self._judge.temperature,
            "max_tokens": self._judge.max_tokens,
            "seed": seed,
        }
        response = await self._http.post("/chat/completions", json=body)
        response.raise_for_status()
        try:
            return str(response.json()["choices"][0]["message"]["content"] or "")
        except (ValueError, LookupError, TypeError):
            raise JudgeError("judge_failed", f"no completion: {response.text[:200]}") from None


def _retry_after_s(response: httpx.Response, otherwise: float) -> float:
    """The seconds for which a busy endpoint asks to be left alone."""
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdigit() else otherwise


def _headers(judge: Judge) -> dict[str, str]:
    if judge.key_env is None:
        return {}
    key = os.environ.get(judge.key_env)
    if not key:
        raise CrucibleError(
            f"The environment variable {judge.key_env}, which is to hold the judge's key, is not "
            "set; set it on every node."
        )
    return {"Authorization": f"Bearer {key}"}
