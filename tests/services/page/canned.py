"""The endpoint over sources that live in the test's process and say what was written for them.

What a prompt says decides what happens to it: see `CannedSources`.
"""

import asyncio
import json
import threading
import time

import pyarrow as pa
import uvicorn

from fusion.keys import Keyring, make_key, write_keyring
from fusion.recipe_file import parse_recipe
from fusion.records import PREFERENCES
from fusion.rewards.judgement import Judgement
from fusion.run import Run
from fusion.store import Location
from services.gateway.app import build_app
from services.gateway.sources import SourceDownError

SOURCES = ("llama", "gemma", "mistral")
HOSTILE = "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 2'><b>bold</b>\u202e"
ANSWERS = {
    "llama": "A river carries stones downhill. It rounds them as it goes.",
    "gemma": "Rivers round the stones that they carry, and leave them where the water slows down.",
    "mistral": "Stones roll.",
}
REWARDS = {ANSWERS["llama"]: 0.75, ANSWERS["gemma"]: 1.25, ANSWERS["mistral"]: -0.5}


def recipe_run(storage, *, keys=None, reward=True):
    """A run of a recipe that is only named here."""
    sources = [{"name": s, "model": f"example/{s}", "revision": "v2"} for s in SOURCES]
    sums = {"name": "sums", "path": "sums.jsonl", "domain": "instruction"}
    recipe = {
        "name": "garden",
        "storage": str(storage),
        "target": {"model": "example/target-1b", "revision": "v1.0"},
        "sources": sources,
        "datasets": [{**sums, "fields": {"prompt": "question"}}],
        "endpoint": {"keys": keys, "limits": {"max_tokens": 256, "n": 4}},
        **({"reward": {"model": "example/reward", "revision": "v3"}} if reward else {}),
    }
    return Run(parse_recipe(recipe))


def pair_row(number, **changes):
    """A row of the preferences table; `changes` replace its columns."""
    prompt = [{"role": "user", "content": f"How much is {number} + {number}?"}]
    chosen = f"{number} + {number} = {2 * number}. The sum is {2 * number}."
    rejected = f"{number} + {number} = {2 * number + 1}. The sum is {2 * number + 1}."
    row = {
        "pair_id": f"{number:032d}",
        "prompt_id": f"{number:032d}",
        "dataset": ("sums", "chat")[number % 2],
        "domain": ("math", "instruction")[number % 2],
        "source": SOURCES[number % 3],
        "rejected_source": SOURCES[number % 3],
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


class CannedSources:
    """Sources that stream one word at a time, in vLLM's wire format.

    "slowly" in a prompt makes them slow, "fail" takes mistral down, "hostile" makes all of them
    answer with markup and "alike" with the same words. `left` lists (source, prompt) of answers
    whose reader went away.
    """

    def __init__(self, names=SOURCES, *, has_reward=True):
        self.names = names
        self.has_reward = has_reward
        self.left = []

    def up(self):
        return list(self.names)

    async def watch(self):
        return

    async def score(self, conversations):
        return [Judgement(REWARDS.get(turns[-1]["content"], 0.0)) for turns in conversations]

    async def ask(self, source, method, body, longest):
        prompt = body["messages"][-1]["content"]
        text = HOSTILE if "hostile" in prompt else ANSWERS[source]
        words = ("The same words." if "alike" in prompt else text).split(" ")
        if "fail" in prompt and source == "mistral":
            raise SourceDownError("it is down")
        is_read = False
        try:
            for number, word in enumerate(words):
                await asyncio.sleep(0.3 if "slowly" in prompt else 0.005)
                yield [_event(delta={"content": word if number == 0 else f" {word}"})]
            finish_reason = "length" if source == "mistral" else "stop"
            yield [_event(delta={}, finish_reason=finish_reason)]
            usage = {"prompt_tokens": 7, "completion_tokens": len(words)}
            is_read = True
            yield [f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n", "data: [DONE]\n\n"]
        finally:
            if not is_read:
                self.left.append((source, prompt))


def _event(**choice):
    return f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n"


class Keys:
    """A keys file whose only key can be made anew."""

    def __init__(self, folder):
        self.place = Location.of(folder / "keys.json")

    def make(self):
        """A key; the one before is known no more."""
        made = make_key("ann")
        write_keyring(self.place, Keyring(keys=(made.key,)))
        return made.token


class Serving:
    """The endpoint of a run on a free port of its own, as long as the block lasts."""

    def __init__(self, run, sources=None):
        self.sources = sources or CannedSources(has_reward=run.recipe.reward is not None)
        self.app = build_app(run, self.sources)
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run)

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.base = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
