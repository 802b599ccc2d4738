"""What the rehearsal asks: exercises with a right reply, plausible slips and a way to check.

An exercise belongs to exactly one world, decided by a hash of its content (its numbers, words and
names, never its wording): `pretraining` is what the models learn from before they are shipped,
`train` are the prompts of the fusion, `test` the held-out ones.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

World = Literal["pretraining", "train", "test"]

# Of 100 contents: 76 teach the models, 12 are asked in the fusion, 12 are held out.
TRAIN_FROM, TEST_FROM = 76, 88


@dataclass(frozen=True)
class Exercise:
    """One prompt with what is known of its answer.

    Attributes:
        category: the task it is an instance of.
        content: all that makes it this instance and no other, without its wording.
        reply: a right reply.
        slip: the typical wrong reply.
        gold: the answer to compare with, empty where there is none.
        tests: Python source that fails by raising, run after the reply's code.
        entry_point: the function that the tests call.
    """

    category: str
    content: str
    prompt: str
    reply: str
    slip: str
    gold: str = ""
    tests: str = ""
    entry_point: str = ""


Task = Callable[[random.Random], Exercise]


def find_world(exercise: Exercise) -> World:
    """The one world that an exercise belongs to, whatever its wording."""
    digest = hashlib.sha256(f"{exercise.category}\n{exercise.content}".encode()).digest()
    percentile = int.from_bytes(digest[:4]) % 100
    if percentile < TRAIN_FROM:
        return "pretraining"
    return "train" if percentile < TEST_FROM else "test"


def draw_exercise(task: Task, world: World, rng: random.Random) -> Exercise:
    """An exercise of this task from this world whose slip differs from its right reply."""
    while True:
        exercise = task(rng)
        if exercise.slip != exercise.reply and find_world(exercise) == world:
            return exercise


def generate_exercises(
    tasks: dict[str, Task], world: World, count: int, seed: int
) -> Iterator[Exercise]:
    """`count` exercises with different contents, the tasks in turn; the same for the same seed."""
    rng = random.Random(f"{seed}/{world}")
    names = list(tasks)
    seen: set[tuple[str, str]] = set()
    while len(seen) < count:
        exercise = draw_exercise(tasks[names[len(seen) % len(names)]], world, rng)
        key = (exercise.category, exercise.content)
        if key not in seen:
            seen.add(key)
            yield exercise
