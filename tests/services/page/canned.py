"""An endpoint for the page to talk to: the page's real routes, canned answers to a fan-out.

What a prompt says decides what happens to it: see `ANSWERS` and `_answer`.
"""

import asyncio
import json
import threading
import time

import pyarrow as pa
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse

from fusion.recipe_file import parse_recipe
from fusion.records import PREFERENCES
from fusion.run import Run
from services.page import router

SOURCES = ["llama", "gemma", "mistral"]
HOSTILE = "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 2'><b>bold</b>\u202e"
ANSWERS = {
    "llama": "A river carries stones downhill. It rounds them as it goes.",
    "gemma": "Rivers round the stones that they carry, and leave them where the water slows down.",
    "mistral": "Stones roll.",
}
REWARDS = {"llama": 0.75, "gemma": 1.25, "mistral": -0.5}
LIMITS = {"max_tokens": 256, "n": 4, "messages": 32, "body_bytes": 65536}


def recipe_run(storage, name="garden"):
    """A run of a recipe that is only named here."""
    return Run(
        parse_recipe(
            {
                "name": name,
                "storage": str(storage),
                "target": {"model": "example/target-1b", "revision": "v1.0"},
                "sources": [
                    {"name": s, "model": f"example/{s}", "revision": "v2"} for s in SOURCES
                ],
                "datasets": [
                    {
                        "name": "sums",
                        "path": "sums.jsonl",
                        "domain": "instruction",
                        "fields": {"prompt": "question"},
                    }
                ],
            }
        )
    )


def pair_row(number, **changes):
    """A row of the preferences table; `changes` replace its columns."""
    prompt = [{"role": "user", "content": f"How much is {number} + {number}?"}]
    chosen = f"{number} + {number} = {2 * number}. The sum is {2 * number}."
    rejected = f"{number} + {number} = {2 * number + 1}. The sum is {2 * number + 1}."
    row = {
        "prompt_id": f"{number:032d}",
        "dataset": ("sums", "chat")[number % 2],
        "domain": ("math", "instruction")[number % 2],
        "source": SOURCES[number % 3],
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "chosen_reward": number / 100 + 0.5,
        "rejected_reward": 0.5,
        "margin": number / 100,
    }
    return {**row, **changes}


def write_pairs(run, rows):
    """Commit rows as a part of the run's preferences."""
    run.preferences().append(pa.Table.from_pylist(rows, schema=PREFERENCES))


class Endpoint:
    """The application, and what it saw: the fan-outs that were asked and those that were left."""

    def __init__(self, run, *, keys=(), sources=SOURCES, reward=True):
        self.run, self.keys, self.sources, self.reward = run, keys, sources, reward
        self.asked = []
        self.left = []
        self.app = FastAPI()
        self.app.state.run = run
        self.app.include_router(router)
        self.app.get("/v1/endpoint")(self._describe)
        self.app.post("/v1/fanout")(self._fan_out)
        self.app.exception_handler(HTTPException)(_as_openai_says)
        self.app.middleware("http")(self._check_key)

    async def _check_key(self, request: Request, call_next):
        needs_key = self.keys and request.url.path.startswith("/v1/")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if needs_key and given not in self.keys:
            return _error(401, "This key is not known here; ask for one.")
        return await call_next(request)

    async def _describe(self):
        return {
            "run": self.run.recipe.name,
            "sources": self.sources,
            "reward": self.reward,
            "keys": bool(self.keys),
            "limits": LIMITS,
        }

    async def _fan_out(self, request: Request):
        body = await request.json()
        self.asked.append(body)
        if "too much" in body["messages"][-1]["content"]:
            return _error(429, "All places are taken.", {"Retry-After": "3"})
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body):
        queue = asyncio.Queue()
        wanted = [(model, index) for model in body["models"] for index in range(body["n"])]
        tasks = [asyncio.create_task(_answer(queue, body, *one)) for one in wanted]
        try:
            left = len(tasks)
            while left:
                event, data = await queue.get()
                left -= event in ("answer", "error")
                yield f"event: {event}\ndata: {json.dumps(data)}\n\n"
            if "broken off" not in body["messages"][-1]["content"]:
                yield "event: done\ndata: {}\n\n"
        except asyncio.CancelledError:
            self.left.append(body)
            raise
        finally:
            for task in tasks:
                task.cancel()


async def _answer(queue, body, model, index):
    prompt = body["messages"][-1]["content"]
    text = HOSTILE if "hostile" in prompt else ANSWERS[model]
    text = "The same words." if "alike" in prompt else text
    if "fail" in prompt and model == "mistral":
        error = {"message": "The source mistral is not up.", "type": "server_error", "code": 503}
        await queue.put(("error", {"model": model, "index": index, "error": error}))
        return
    started = time.monotonic()
    for word in text.split(" "):
        await asyncio.sleep(0.3 if "slowly" in prompt else 0.005)
        await queue.put(("delta", {"model": model, "index": index, "text": f"{word} "}))
    said = {
        "model": model,
        "index": index,
        "text": text,
        "finish_reason": "length" if model == "mistral" else "stop",
        "usage": {"prompt_tokens": 7, "completion_tokens": len(text.split())},
        "first_token_ms": 31.0 + 10 * index,
        "latency_ms": 1000 * (time.monotonic() - started),
        "reward": REWARDS[model] if body["score"] else None,
        "verdict": None,
        "reason": None,
    }
    if body.get("verifier"):
        is_right = body["gold"] in text
        verdict = ("correct", "equal") if is_right else ("wrong", "wrong_answer")
        said |= dict(zip(("verdict", "reason"), verdict, strict=True))
    await queue.put(("answer", said))


def _error(status, message, headers=None):
    told = {"message": message, "type": "invalid_request_error", "param": None, "code": status}
    return JSONResponse({"error": told}, status_code=status, headers=headers)


def _as_openai_says(request: Request, error: HTTPException):
    return _error(error.status_code, error.detail, error.headers)


class Serving:
    """An endpoint on a free port of its own, as long as the block lasts."""

    def __init__(self, endpoint):
        config = uvicorn.Config(endpoint.app, port=0, log_level="warning")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
