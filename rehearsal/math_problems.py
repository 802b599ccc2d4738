"""Word problems of one or two steps, answered with the working and a final answer."""

# ruff: noqa: SIM905 - a list literal would take a line for each word

import random
from dataclasses import dataclass

from rehearsal.tasks import Exercise, Task

NAMES = "Ann Ben Carla David Emma Felix Grace Henry Ivy Jack Kate Leo Mia Noah Olga Paul".split()
THINGS = "apples books cards coins eggs flowers pears pens shells stamps stones toys".split()


@dataclass(frozen=True)
class Step:
    """One line of working: left, sign, right, and what is said to come out."""

    left: int
    sign: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right} = {self.result}"


def add(left: int, right: int) -> Step:
    """A right sum."""
    return Step(left, "+", right, left + right)


def subtract(left: int, right: int) -> Step:
    """A right difference."""
    return Step(left, "-", right, left - right)


def multiply(left: int, right: int) -> Step:
    """A right product."""
    return Step(left, "*", right, left * right)


def write_solution(steps: list[Step]) -> str:
    """The working, then the last result as the boxed final answer."""
    working = ". ".join(map(str, steps))
    return f"{working}. The answer is \\boxed{{{steps[-1].result}}}."


def build(
    category: str, content: tuple[object, ...], asked: str, right: list[Step], wrong: list[Step]
) -> Exercise:
    """An exercise whose gold is the last result of the right working."""
    return Exercise(
        category,
        " ".join(map(str, content)),
        asked,
        write_solution(right),
        write_solution(wrong),
        gold=str(right[-1].result),
    )


def gain(rng: random.Random) -> Exercise:
    """Addition; the slip subtracts."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    more = rng.randint(2, 9)
    has = rng.randint(more + 1, 20)
    asked = rng.choice(
        (
            f"{name} has {has} {things} and buys {more} more. How many {things} are there now?",
            f"There are {has} {things} in a box. {name} puts in {more} more. How many are there?",
            f"{name} finds {more} {things} and already had {has}. How many {things} in all?",
        )
    )
    return build("gain", (name, things, has, more), asked, [add(has, more)], [subtract(has, more)])


def lose(rng: random.Random) -> Exercise:
    """Subtraction; the slip adds."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    fewer = rng.randint(2, 9)
    has = rng.randint(fewer + 1, 20)
    asked = rng.choice(
        (
            f"{name} has {has} {things} and loses {fewer}. How many {things} are left?",
            f"Of {has} {things}, {name} gives away {fewer}. How many remain?",
            f"{name} sells {fewer} of {has} {things}. How many {things} does {name} keep?",
        )
    )
    return build(
        "lose", (name, things, has, fewer), asked, [subtract(has, fewer)], [add(has, fewer)]
    )


def groups(rng: random.Random) -> Exercise:
    """Multiplication; the slip adds."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    bags, each = rng.randint(2, 9), rng.randint(3, 9)
    asked = rng.choice(
        (
            f"{name} has {bags} bags with {each} {things} in each. How many {things} in all?",
            f"Each of {bags} boxes holds {each} {things}. How many {things} does {name} have?",
            f"{name} packs {each} {things} into every bag and fills {bags}. How many {things}?",
        )
    )
    return build(
        "groups", (name, things, bags, each), asked, [multiply(bags, each)], [add(bags, each)]
    )


def groups_and_more(rng: random.Random) -> Exercise:
    """Multiplication and addition; the slip forgets the second step."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    bags, each, more = rng.randint(2, 5), rng.randint(3, 6), rng.randint(2, 9)
    asked = rng.choice(
        (
            f"{name} has {bags} bags with {each} {things} in each and {more} loose ones. "
            f"How many {things} in all?",
            f"{bags} boxes hold {each} {things} each, and {name} adds {more}. How many {things}?",
        )
    )
    first = multiply(bags, each)
    right = [first, add(first.result, more)]
    return build("groups_and_more", (name, things, bags, each, more), asked, right, [first])


def groups_and_fewer(rng: random.Random) -> Exercise:
    """Multiplication and subtraction; the slip adds in the second step."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    bags, each, fewer = rng.randint(2, 5), rng.randint(3, 6), rng.randint(2, 5)
    asked = rng.choice(
        (
            f"{name} fills {bags} bags with {each} {things} each, then eats {fewer}. "
            f"How many {things} are left?",
            f"{bags} boxes hold {each} {things} each. {name} takes {fewer} out. How many remain?",
        )
    )
    first = multiply(bags, each)
    right = [first, subtract(first.result, fewer)]
    wrong = [first, add(first.result, fewer)]
    return build("groups_and_fewer", (name, things, bags, each, fewer), asked, right, wrong)


def compare(rng: random.Random) -> Exercise:
    """Sum of a number and that number and more; the slip stops after the first step."""
    name, other = rng.sample(NAMES, 2)
    things = rng.choice(THINGS)
    has, more = rng.randint(3, 10), rng.randint(2, 9)
    asked = rng.choice(
        (
            f"{name} has {has} {things}. {other} has {more} more than {name}. "
            f"How many {things} do both have together?",
            f"{other} owns {more} {things} more than {name}, who owns {has}. How many together?",
        )
    )
    first = add(has, more)
    right = [first, add(has, first.result)]
    return build("compare", (name, other, things, has, more), asked, right, [first])


TASKS: dict[str, Task] = {
    task.__name__: task for task in (gain, lose, groups, groups_and_more, groups_and_fewer, compare)
}
