"""Sources that live in the test's process, and how the endpoint is asked."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fusion.recipe import Recipe
from fusion.rewards.judgement import Judgement
from fusion.run import Run
from services.answers import Reply
from services.gateway.sources import Method, Part, SourceDownError

NAMES = ("llama", "gemma")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


class EchoSources:
    """Sources that say the last message again, in vLLM's wire format; some are made to fail."""

    names = NAMES

    def __init__(self, *, has_reward: bool = True) -> None:
        self.has_reward = has_reward
        self.down: set[str] = set()
        self.dying: set[str] = set()
        self.refusing: set[str] = set()
        self.asked: list[dict[str, Any]] = []
        self.holding: asyncio.Event | None = None
        self.under_way = 0

    def up(self) -> list[str]:
        return [name for name in self.names if name not in self.down]

    async def watch(self) -> None:
        return

    async def score(self, conversations: Sequence[list[dict[str, str]]]) -> list[Judgement]:
        return [Judgement(reward=len(turns[-1]["content"]) / 10) for turns in conversations]

    async def ask(
        self, source: str, method: Method, body: dict[str, Any], longest: int
    ) -> AsyncGenerator[Part, None]:
        self.asked.append({"source": source, "method": method, "longest": longest, **body})
        if source in self.down:
            raise SourceDownError("it is down")
        if source in self.refusing:
            yield Reply(400, message="The context is too short.", param="messages")
            return
        self.under_way += 1
        try:
            if self.holding:
                await self.holding.wait()
            if body.get("stream"):
                for event in _events(source, method, body):
                    if source in self.dying and "finish_reason" in event:
                        raise SourceDownError("its replica failed (ActorDiedError)")
                    yield [event]
            else:
                yield Reply(200, json.dumps(_whole(source, method, body)), 3, 2)
        finally:
            self.under_way -= 1


def _said(method: Method, body: dict[str, Any]) -> str:
    if method == "completions":
        return str(body["prompt"])
    return str(body["messages"][-1].get("content"))


def _whole(source: str, method: Method, body: dict[str, Any]) -> dict[str, Any]:
    text = _said(method, body)
    chat = method == "chat"
    said: dict[str, Any] = (
        {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    )
    choices = [{"index": i, **said, "finish_reason": "stop"} for i in range(body.get("n", 1))]
    return {
        "id": "one",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1,
        "model": source,
        "choices": choices,
        "usage": USAGE,
    }


def _events(source: str, method: Method, body: dict[str, Any]) -> list[str]:
    text = _said(method, body)
    half = len(text) // 2
    pieces = [*([{"content": ""}] if method == "chat" else [])]
    pieces += [{"content": text[:half]}, {"content": text[half:]}]
    choices = [
        [{"index": 0, "delta": piece}]
        if method == "chat"
        else [{"index": 0, "text": piece["content"]}]
        for piece in pieces
    ]
    choices[-1][0]["finish_reason"] = "stop"
    chunks = [
        {
            "id": "one",
            "model": source,
            "object": "chat.completion.chunk",
            "created": 1,
            "choices": c,
        }
        for c in choices
    ]
    chunks.append({**chunks[0], "choices": [], "usage": USAGE})
    return [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]


def run_of(folder, *, has_reward=True, **endpoint):
    """A run of the sources whose endpoint has these options."""
    sampling = {"max_tokens": 64, "stop": ["###"]}
    sources = [{"name": name, "model": name, "sampling": sampling} for name in NAMES]
    dataset = {"name": "d", "path": "d", "domain": "math", "fields": {"prompt": "q"}}
    recipe = {
        "name": "r",
        "storage": str(folder / "runs"),
        "target": {"model": "target"},
        "sources": sources,
        "datasets": [dataset],
        "endpoint": endpoint,
        **({"reward": {"model": "reward"}} if has_reward else {}),
    }
    return Run(Recipe.model_validate(recipe))


def said(text="hello there", **fields):
    """A chat request to llama."""
    return {"model": "llama", "messages": [{"role": "user", "content": text}], **fields}


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def error_of(response, status):
    """The error of a refusal, after a check of its shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")
    return error


def events_of(text):
    """(name, data) of each server-sent event."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((lines["event"], json.loads(lines["data"])))
    return found


def hold(client, sources):
    """Make the sources wait before they answer."""

    async def make():
        sources.holding = asyncio.Event()

    client.portal.call(make)


def release(client, sources):
    """Let the sources answer."""
    client.portal.call(sources.holding.set)


def wait_until(is_so):
    """Wait for something, ten seconds at most."""
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
