"""Orchestration at scale: many simulated engines behind the real pipeline, store and Ray.

    python benchmarks/scale.py [--engines 1 4 16 64] [--answers 1280]

Simulated is only what computes: an engine takes the time and gives the tokens that a roofline of
Llama-3.1-70B on four H100 says (cluster/roofline.py), with continuous batching of 256 answers of
512 tokens on average. Everything else is the product's: prompts are ingested, the stage sample asks
through Ray Data, Serve's handles and replicas, and commits every answer to the store. Up to eight
engines share a process, as this is one machine; on a cluster each has its own, on its own node.

Throughput is taken while all engines are busy, from 15 to 85 % of the answers; start and tail of a
stage, which a longer one spreads thinner, are in the context.
"""

import argparse
import asyncio
import heapq
import itertools
import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ray import serve  # noqa: E402

from cluster.connection import connected  # noqa: E402
from cluster.engine_fit import Split  # noqa: E402
from cluster.nodes import gpu_kind  # noqa: E402
from cluster.roofline import Roofline, roofline  # noqa: E402
from fusion.architecture import architecture  # noqa: E402
from fusion.identity import response_id, sampling_seed  # noqa: E402
from fusion.recipe import Engine, Recipe  # noqa: E402
from fusion.run import Run  # noqa: E402
from fusion.window import largest_window  # noqa: E402
from jobs.ingest import load_prompts, run_ingest  # noqa: E402
from jobs.models import run_askings  # noqa: E402
from jobs.sample import sample  # noqa: E402
from services.answers import Answer, Finished, Manner, SampleRequest, Wanted  # noqa: E402
from services.applications import handle, serving, source_application_name, start_serve  # noqa: E402

MODEL, SPLIT, AT_ONCE = "meta-llama/Llama-3.1-70B-Instruct", Split(4, 1), 256
PROMPT_TOKENS, ANSWER_TOKENS, SAMPLES = 256, 512, 4
ENGINES_A_PROCESS = 8
TARGET_AT, TARGET = 16, 0.9
BUSY = (0.15, 0.85)
TICK_S = 0.02
GATHER_S = 1.0  # as services/engine.py
TEXT = "the quick brown fox jumps over a lazy dog and says so " * 100
CHARACTERS_A_TOKEN = 4


class SimulatedEngine:
    """Continuous batching in the time of a roofline: a step gives every running answer a token."""

    def __init__(self, limits: Roofline) -> None:
        self._limits = limits
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._running: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._steps = 0.0
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop().create_task(self._run())

    @property
    def load(self) -> int:
        """Answers given to it and not finished."""
        return len(self._waiting) + len(self._running)

    async def generate(self, tokens: int) -> None:
        """Return when an answer of so many tokens would be finished."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tokens, done))
        self._news.set()
        await done

    async def _run(self) -> None:
        clock = time.monotonic()
        while True:
            if not self.load:
                self._news.clear()
                await self._news.wait()
                clock = time.monotonic()
            while self._waiting and len(self._running) < AT_ONCE:
                tokens, done = self._waiting.popleft()
                heapq.heappush(self._running, (self._steps + tokens, next(self._order), done))
                clock += self._limits.prefill_s(PROMPT_TOKENS)
            await asyncio.sleep(TICK_S)
            context = PROMPT_TOKENS + ANSWER_TOKENS / 2
            step_s = self._limits.step_s(len(self._running), context)
            now = time.monotonic()
            if now > clock:
                self._steps += (now - clock) / step_s
                clock = now
            while self._running and self._running[0][0] <= self._steps:
                heapq.heappop(self._running)[2].set_result(None)


@serve.deployment(name="Source", max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0.1})
class SimulatedSource:
    """What a source's replica is to the pipeline, over several simulated engines."""

    async def __init__(self, engines: int, limits: Roofline) -> None:  # Serve awaits it
        self._engines = [SimulatedEngine(limits) for _ in range(engines)]
        self._finished: list[tuple[float, int]] = []

    async def sample(
        self, requests: Sequence[SampleRequest], manner: Manner
    ) -> AsyncIterator[Finished]:
        """Every answer wanted, each from the engine with least to do, as they finish."""
        window = largest_window(AT_ONCE) * len(self._engines)
        yield Finished([], window)
        pending = {
            asyncio.create_task(self._answer(request.prompt_id, wanted, manner.source_key))
            for request in requests
            for wanted in request.wanted
        }
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending:
                more, pending = await asyncio.wait(pending, timeout=GATHER_S)
                done |= more
            yield Finished([task.result() for task in done], window)

    async def _answer(self, prompt: str, wanted: Wanted, source_key: str) -> Answer:
        id_ = response_id(prompt, source_key, wanted.sample_index)
        seed = sampling_seed(id_, wanted.draw)
        tokens = ANSWER_TOKENS // 2 + seed % ANSWER_TOKENS
        await min(self._engines, key=lambda engine: engine.load).generate(tokens)
        self._finished.append((time.time(), tokens))
        start = seed % CHARACTERS_A_TOKEN
        return Answer(
            response_id=id_,
            prompt_id=prompt,
            sample_index=wanted.sample_index,
            seed=seed,
            text=(TEXT[start:] + TEXT)[: tokens * CHARACTERS_A_TOKEN],
            finish_reason="stop",
            prompt_tokens=PROMPT_TOKENS,
            completion_tokens=tokens,
            cumulative_logprob=-1.0,
        )

    def finished(self, start: int) -> list[tuple[float, int]]:
        """When each answer was finished and its tokens, from the `start`-th on."""
        return self._finished[start:]


@dataclass
class Measured:
    """One number of engines."""

    engines: int
    tokens_a_second: float
    """While all are busy."""
    whole_tokens_a_second: float
    seconds: float
    cpu_share: float
    """Of the machine's cores, all processes together, while the stage ran."""
    processes: int
    finished: list[tuple[float, int]] = field(repr=False, default_factory=list)


def main() -> None:
    """Run every number of engines and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--answers", type=int, default=1280, help="Answers for each engine.")
    options = parser.parse_args()
    limits = roofline(_architecture(), Engine(), SPLIT, gpu_kind("H100"))
    if limits is None:
        raise SystemExit("the H100 has no figures in cluster/gpus.yaml")
    measured = [measure(number, options.answers, limits) for number in options.engines]
    _report(measured, limits.tokens_a_second(AT_ONCE, PROMPT_TOKENS, ANSWER_TOKENS))


def _architecture() -> Any:
    return architecture(MODEL, {})


def measure(engines: int, answers: int, limits: Roofline) -> Measured:
    """Sample with so many engines, in a store and a Ray of its own."""
    import psutil

    processes = -(-engines // ENGINES_A_PROCESS)
    with tempfile.TemporaryDirectory() as folder, connected():
        run = _run(Path(folder), engines * answers // SAMPLES, processes)
        run_ingest(run)
        askings = run_askings(run, load_prompts(run))
        name = source_application_name(run.recipe.name, "simulated")
        a_process = -(-engines // processes)
        app = SimulatedSource.options(num_replicas=processes).bind(a_process, limits)
        start_serve()
        with serving({name: app}):
            psutil.cpu_percent()
            started = time.time()
            sample(run, askings)
            seconds, cpu = time.time() - started, psutil.cpu_percent()
            rows = run.shared("responses").partition(askings[0].source_key)
            stored = rows.read(["completion_tokens", "response_id"])
            finished = _finished(name, stored.num_rows)
    if stored.num_rows != engines * answers:
        raise SystemExit(f"{stored.num_rows} answers are stored, not {engines * answers}")
    tokens = sum(stored["completion_tokens"].to_pylist())
    made = Measured(engines, _busy(finished), tokens / seconds, seconds, cpu / 100, processes)
    print(made, flush=True)
    return made


def _finished(name: str, number: int) -> list[tuple[float, int]]:
    """The ends of all answers, from all replicas; a call reaches any one of them."""
    seen: dict[tuple[float, int], None] = {}
    deadline = time.monotonic() + 60
    while len(seen) < number:
        if time.monotonic() > deadline:
            raise SystemExit(f"the engines told of {len(seen)} ends of {number} answers in 60 s")
        seen |= dict.fromkeys(map(tuple, handle(name).finished.remote(0).result()))
    return sorted(seen)


def _busy(finished: list[tuple[float, int]]) -> float:
    low, high = (int(share * len(finished)) for share in BUSY)
    between = finished[low:high]
    return sum(tokens for _, tokens in between) / (between[-1][0] - between[0][0])


def _run(folder: Path, prompts: int, replicas: int) -> Run:
    words = "x" * (PROMPT_TOKENS * CHARACTERS_A_TOKEN - 16)
    rows = (json.dumps({"prompt": f"{number:08d} {words}"}) for number in range(prompts))
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    model = str(ROOT / "rehearsal" / "models" / "llama")
    raw = {
        "name": "scale",
        "storage": str(folder / "runs"),
        "target": {"model": model},
        "sources": [{"name": "simulated", "model": model, "replicas": replicas}],
        "datasets": [
            {
                "name": "prompts",
                "path": str(folder / "prompts.jsonl"),
                "domain": "instruction",
                "fields": {"prompt": "prompt"},
                "samples": SAMPLES,
            }
        ],
    }
    return Run(Recipe.model_validate(raw))


def _report(measured: Sequence[Measured], roof: float) -> None:
    one = measured[0].tokens_a_second / measured[0].engines
    figures, context = {}, {"roofline_tokens_a_second": round(roof), "cores": os.cpu_count()}
    print(f"{'engines':>8} {'tokens/s':>12} {'of linear':>10} {'whole stage':>12} {'CPU':>6}")
    for made in measured:
        ratio = made.tokens_a_second / made.engines / one
        print(
            f"{made.engines:8d} {made.tokens_a_second:12,.0f} {ratio:10.3f} "
            f"{made.whole_tokens_a_second:12,.0f} {made.cpu_share:6.0%}"
        )
        row = {
            "ours": round(ratio, 3),
            "peer": None,
            "ratio": None,
            "unit": "share of engines x one engine's tokens/s",
            "target": TARGET,
            "met": ratio >= TARGET,
        }
        if made.engines == TARGET_AT:
            figures[f"linear_at_{made.engines}"] = row
        context[f"engines_{made.engines}"] = {
            "of_linear": round(ratio, 3),
            "tokens_a_second": round(made.tokens_a_second),
            "whole_stage_tokens_a_second": round(made.whole_tokens_a_second),
            "seconds": round(made.seconds, 1),
            "cpu_share": round(made.cpu_share, 2),
            "processes": made.processes,
        }
    print(json.dumps({"name": "scale", "figures": figures, "context": context}))


if __name__ == "__main__":
    main()
