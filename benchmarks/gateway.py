"""What the endpoint costs: 64 clients of another process for a minute, and one client alone.

    python benchmarks/gateway.py [--seconds 60] [--clients 64]

The peer is the source's deployment handle, called directly with the same requests by the same
loop of clients. Both loads come from a process of their own that does nothing else; that of the
handle has joined the cluster, as whatever holds a handle has. Every answer is checked by the token
ids of its own prompt, which the engine echoes.
"""

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import ray
import yaml

from cluster.connection import connected, usable
from fusion.chat import load_tokenizer, render_prompt
from fusion.recipe import Recipe
from fusion.recipe_file import load_recipe
from fusion.run import Run
from jobs.models import source_applications
from services.applications import handle, serving, source_application_name, start_serve
from services.gateway.deployed import deployed_app
from services.gateway.listening import bound, server
from services.source import Served

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "llama"
PROMPTS_EACH = 64
TARGET_RATIO, TARGET_ADDED_MS = 0.8, 10.0
ALONE = 200
WARM_S = 5.0

Result = TypeVar("Result")
Ask = Callable[[int, dict[str, Any]], Awaitable[tuple[int, bytes]]]


@dataclass
class Tally:
    """What a load came to."""

    answers: int = 0
    lost: int = 0
    mixed_up: int = 0
    tokens: int = 0
    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds

    @property
    def wrong(self) -> int:
        """Answers that never came, or were another's."""
        return self.lost + self.mixed_up

    @classmethod
    def of(cls, one: "Tally", other: "Tally") -> "Tally":
        """Two loads as one."""
        return cls(**{f.name: getattr(one, f.name) + getattr(other, f.name) for f in fields(cls)})


@dataclass(frozen=True)
class Alone:
    """Median milliseconds of one request at a time."""

    ours: float
    peer: float


def main() -> None:
    """Bring one source and the endpoint up, load both ways in turn, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=64)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="crucible-gateway-"))
    recipe = _recipe(folder)
    with connected() as there:
        start_serve()
        served = [Served.of(recipe.source(SOURCE))]
        applications = source_applications(recipe, served, usable(recipe, there))
        with serving(applications), _listening(recipe):
            figures = measure(recipe, options.clients, options.seconds)
    _print(figures)


@contextmanager
def _listening(recipe: Recipe) -> Iterator[None]:
    """The endpoint as `crucible serve` runs it, in this process, which does nothing else."""
    serving_it = server(deployed_app(Run(recipe)), recipe.endpoint)
    thread = threading.Thread(target=serving_it.run, args=[[bound(recipe.endpoint)]])
    thread.start()
    try:
        yield
    finally:
        serving_it.should_exit = True
        thread.join()


def measure(recipe: Recipe, clients: int, seconds: float) -> dict[str, Any]:
    """Rates and latencies through the endpoint and without it, the handle before and after."""
    prompts, cluster = _prompts(clients), ray.get_runtime_context().gcs_address
    handle_load = (_load_handle, cluster, recipe, prompts, clients, seconds / 2)
    _elsewhere(*handle_load[:-1], WARM_S)  # the engine compiles, once
    before = _elsewhere(*handle_load)
    ours = _elsewhere(_load_endpoint, recipe, prompts, clients, seconds)
    after = _elsewhere(*handle_load)
    alone = _elsewhere(_load_alone, cluster, recipe, prompts)
    peer = Tally.of(before, after)
    added = alone.ours - alone.peer
    return {
        "requests_per_second": _row(ours.rate, peer.rate, "1/s", TARGET_RATIO),
        "added_milliseconds": {
            "ours": round(alone.ours, 2),
            "peer": round(alone.peer, 2),
            "ratio": None,
            "unit": "ms",
            "target": TARGET_ADDED_MS,
            "met": added < TARGET_ADDED_MS,
        },
        "lost_or_mixed_up": {
            "ours": ours.wrong,
            "peer": peer.wrong,
            "ratio": None,
            "unit": "answers",
            "target": 0,
            "met": ours.wrong == 0,
        },
        "context": {
            "clients": clients,
            "seconds": round(ours.seconds, 1),
            "answers": ours.answers,
            "tokens_an_answer": round(ours.tokens / max(1, ours.answers), 1),
            "median_ms_under_load": round(statistics.median(ours.milliseconds), 1),
            "peer_median_ms_under_load": round(statistics.median(peer.milliseconds), 1),
            "peer_rates": [round(before.rate, 1), round(after.rate, 1)],
            "added_ms": round(added, 2),
        },
    }


def _elsewhere(load: Callable[..., Result], *arguments: Any) -> Result:
    """What a load comes to in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(load, arguments)


def _load_endpoint(recipe: Recipe, prompts: "Prompts", clients: int, seconds: float) -> Tally:
    async def run() -> Tally:
        connections = [Connection(recipe.endpoint.port) for _ in range(clients)]
        try:
            return await _warm_load(
                lambda c, body: connections[c].post(body), prompts, clients, seconds
            )
        finally:
            for connection in connections:
                connection.close()

    return asyncio.run(run())


def _load_handle(
    cluster: str, recipe: Recipe, prompts: "Prompts", clients: int, seconds: float
) -> Tally:
    with _joined(cluster):
        return asyncio.run(_warm_load(_handle(recipe), prompts, clients, seconds))


def _load_alone(cluster: str, recipe: Recipe, prompts: "Prompts") -> Alone:
    with _joined(cluster):
        return asyncio.run(_alone(recipe, prompts))


@contextmanager
def _joined(cluster: str) -> Iterator[None]:
    os.environ["RAY_ADDRESS"] = cluster
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with connected():
        yield


async def _warm_load(ask: Ask, prompts: "Prompts", clients: int, seconds: float) -> Tally:
    await _load(ask, prompts, clients, WARM_S)
    return await _load(ask, prompts, clients, seconds)


async def _load(ask: Ask, prompts: "Prompts", clients: int, seconds: float) -> Tally:
    """Clients that each ask again as soon as they are answered, until the time is over."""
    tally = Tally()
    started = time.perf_counter()

    async def client(number: int) -> None:
        turn = 0
        while time.perf_counter() - started < seconds:
            text, ids = prompts[number][turn % PROMPTS_EACH]
            turn += 1
            asked = time.perf_counter()
            status, answer = await ask(number, _body(text))
            tally.milliseconds.append((time.perf_counter() - asked) * 1000)
            _check(tally, status, answer, ids)

    await asyncio.gather(*(client(number) for number in range(clients)))
    tally.seconds = time.perf_counter() - started
    return tally


def _check(tally: Tally, status: int, answer: bytes, ids: list[int]) -> None:
    if status != 200:
        tally.lost += 1
        return
    reply = json.loads(answer)
    tally.answers += 1
    tally.tokens += reply["usage"]["completion_tokens"]
    tally.mixed_up += reply["prompt_token_ids"] != ids


async def _alone(recipe: Recipe, prompts: "Prompts") -> Alone:
    """Single requests through the endpoint and without it, in turn."""
    connection, direct = Connection(recipe.endpoint.port), _handle(recipe)
    ways: list[tuple[Ask, list[float]]] = [
        (lambda _, body: connection.post(body), []),
        (direct, []),
    ]
    for turn in range(ALONE):
        text, _ = prompts[0][turn % PROMPTS_EACH]
        for ask, milliseconds in ways:
            started = time.perf_counter()
            await ask(0, _body(text))
            milliseconds.append((time.perf_counter() - started) * 1000)
    connection.close()
    return Alone(statistics.median(ways[0][1]), statistics.median(ways[1][1]))


def _handle(recipe: Recipe) -> Ask:
    deployed = handle(source_application_name(recipe.name, SOURCE)).options(stream=True)

    async def ask(_: int, body: dict[str, Any]) -> tuple[int, bytes]:
        (reply,) = [part async for part in deployed.openai.remote("chat", body, 4096)]
        return reply.status, reply.json.encode()

    return ask


class Connection:
    """A connection that is kept: a client that costs little, as it shares the cores."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """Ask for a chat completion; its status and body."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        data = json.dumps(body).encode()
        self._writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        return int(head.split(b" ")[1]), await self._reader.readexactly(length)

    def close(self) -> None:
        """Close the connection."""
        if self._writer:
            self._writer.close()


Prompts = list[list[tuple[str, list[int]]]]


def _prompts(clients: int) -> Prompts:
    """Texts that no two clients share, and their token ids."""
    tokenizer = load_tokenizer(str(ROOT / "rehearsal" / "models" / SOURCE))
    texts = [[f"What is {c} + {n}?" for n in range(PROMPTS_EACH)] for c in range(clients)]
    return [
        [(t, render_prompt(tokenizer, [{"role": "user", "content": t}])) for t in own]
        for own in texts
    ]


def _body(text: str) -> dict[str, Any]:
    return {
        "model": SOURCE,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 64,
        "temperature": 0,
        "return_token_ids": True,
    }


def _recipe(folder: Path) -> Recipe:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    changes = {
        "extends": str(ROOT / "rehearsal" / "recipe.yaml"),
        "name": "gateway",
        "storage": str(folder / "runs"),
        "endpoint": {"port": port, "sources": [SOURCE]},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(changes))
    return load_recipe(folder / "recipe.yaml")


def _row(ours: float, peer: float, unit: str, target: float) -> dict[str, Any]:
    ratio = ours / peer
    return {
        "ours": round(ours, 1),
        "peer": round(peer, 1),
        "ratio": round(ratio, 3),
        "unit": unit,
        "target": target,
        "met": ratio >= target,
    }


def _print(figures: dict[str, Any]) -> None:
    context = figures.pop("context")
    for name, row in figures.items():
        print(
            f"{name:20} ours {row['ours']:>8}  handle {row['peer']:>8} {row['unit']:8}"
            f" target {row['target']}  {'met' if row['met'] else 'MISSED'}"
        )
    print(json.dumps({"name": "gateway", "figures": figures, "context": context}))


if __name__ == "__main__":
    main()
