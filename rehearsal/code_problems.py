"""Small Python functions, asked for in words and checked by tests."""

import random

from rehearsal.tasks import Exercise, Task

VERBS = ["apply", "build", "change", "compute", "count", "find", "get", "give", "make", "take"]
NOUNS = ["answer", "item", "number", "part", "result", "score", "step", "total", "unit", "value"]
ARGUMENTS = ("a", "n", "t", "x", "y", "z")


def draw_name(rng: random.Random) -> str:
    """A function name."""
    return f"{rng.choice(VERBS)}_{rng.choice(NOUNS)}"


def write_reply(name: str, argument: str, body: str) -> str:
    """A fenced block with the function."""
    return f"```python\ndef {name}({argument}):\n    return {body}\n```"


def write_tests(name: str, argument: str, body: str, inputs: list[object]) -> str:
    """Assertions that hold for a function with this body and no other."""
    right = eval(f"lambda {argument}: {body}")  # our own expression
    lines = [f"    assert candidate({value!r}) == {right(value)!r}" for value in inputs]
    return "\n".join(["def check(candidate):", *lines, "", f"check({name})"])


def draw_integers(rng: random.Random) -> list[object]:
    """Five different inputs for a function of one integer."""
    return list(rng.sample(range(-9, 100), 5))


def draw_lists(rng: random.Random) -> list[object]:
    """Four inputs for a function of a list of integers, none sorted."""
    return [[*rng.sample(range(10, 99), rng.randint(3, 5)), rng.randint(1, 9)] for _ in range(4)]


def draw_texts(rng: random.Random) -> list[object]:
    """Four inputs for a function of a text."""
    return ["".join(rng.choices("abCDeF", k=rng.randint(4, 7))) + "gH" for _ in range(4)]


def build(
    rng: random.Random, category: str, wanted: str, right: str, wrong: str, inputs: list[object]
) -> Exercise:
    """An exercise that asks for a function of one argument; `{v}` stands for the argument."""
    name, argument = draw_name(rng), rng.choice(ARGUMENTS)
    wanted, right, wrong = (text.replace("{v}", argument) for text in (wanted, right, wrong))
    asked = rng.choice(
        (
            f"Write a Python function {name}({argument}) that returns {wanted}.",
            f"Define {name}({argument}) in Python. It returns {wanted}.",
            f"I need {name}({argument}), a Python function which gives {wanted}.",
        )
    )
    return Exercise(
        category,
        f"{name} {argument} {right}",
        asked,
        write_reply(name, argument, right),
        write_reply(name, argument, wrong),
        gold=write_reply(name, argument, right),
        tests=write_tests(name, argument, right, inputs),
        entry_point=name,
    )


def arithmetic(rng: random.Random) -> Exercise:
    """One operation with a constant; the slip takes another operation."""
    constant = rng.randint(2, 40)
    wanted, right, wrong = rng.choice(
        (
            ("{v} plus %d", "{v} + %d", "{v} - %d"),
            ("{v} minus %d", "{v} - %d", "{v} + %d"),
            ("{v} times %d", "{v} * %d", "{v} + %d"),
        )
    )
    wanted, right, wrong = (text % constant for text in (wanted, right, wrong))
    return build(rng, "arithmetic", wanted, right, wrong, draw_integers(rng))


def precedence(rng: random.Random) -> Exercise:
    """A sum or difference, times a constant; the slip forgets the parentheses."""
    constant, factor = rng.randint(2, 40), rng.randint(2, 9)
    word, sign = rng.choice((("plus", "+"), ("minus", "-")))
    return build(
        rng,
        "precedence",
        f"{factor} times the result of {{v}} {word} {constant}",
        f"({{v}} {sign} {constant}) * {factor}",
        f"{{v}} {sign} {constant} * {factor}",
        draw_integers(rng),
    )


def threshold(rng: random.Random) -> Exercise:
    """A comparison with a constant; the slip gets the border wrong."""
    constant = rng.randint(2, 40)
    word, sign, wrong = rng.choice(
        (
            ("at least", ">=", ">"),
            ("more than", ">", ">="),
            ("at most", "<=", "<"),
            ("less than", "<", "<="),
        )
    )
    return build(
        rng,
        "threshold",
        f"whether {{v}} is {word} {constant}",
        f"{{v}} {sign} {constant}",
        f"{{v}} {wrong} {constant}",
        [constant - 1, constant, constant + 1],
    )


def of_list(rng: random.Random) -> Exercise:
    """A property of a list; the slip computes its counterpart."""
    constant = rng.randint(2, 20)
    wanted, right, wrong = rng.choice(
        (
            ("the largest number of the list {v} plus %d", "max({v}) + %d", "min({v}) + %d"),
            ("the smallest number of the list {v} plus %d", "min({v}) + %d", "max({v}) + %d"),
            ("the sum of the list {v} plus %d", "sum({v}) + %d", "len({v}) + %d"),
            ("the length of the list {v} plus %d", "len({v}) + %d", "sum({v}) + %d"),
        )
    )
    wanted, right, wrong = (text % constant for text in (wanted, right, wrong))
    return build(rng, "of_list", wanted, right, wrong, draw_lists(rng))


def keep_some(rng: random.Random) -> Exercise:
    """A filtered list; the slip keeps the others."""
    constant = rng.randint(12, 60)
    wanted, right, wrong = rng.choice(
        (
            (
                "all numbers of {v} above %d",
                "[i for i in {v} if i > %d]",
                "[i for i in {v} if i < %d]",
            ),
            (
                "all numbers of {v} below %d",
                "[i for i in {v} if i < %d]",
                "[i for i in {v} if i > %d]",
            ),
        )
    )
    wanted, right, wrong = (text % constant for text in (wanted, right, wrong))
    inputs: list[object] = [[constant - 1, constant, constant + 1], *draw_lists(rng)]
    return build(rng, "keep_some", wanted, right, wrong, inputs)


def of_text(rng: random.Random) -> Exercise:
    """A repeated text in another form; the slip takes the opposite form."""
    times = rng.randint(2, 9)
    wanted, right, wrong = rng.choice(
        (
            ("the text {v} in capitals, %d times", "{v}.upper() * %d", "{v}.lower() * %d"),
            ("the text {v} in small letters, %d times", "{v}.lower() * %d", "{v}.upper() * %d"),
            ("the text {v} backwards, %d times", "{v}[::-1] * %d", "{v} * %d"),
        )
    )
    wanted, right, wrong = (text % times for text in (wanted, right, wrong))
    return build(rng, "of_text", wanted, right, wrong, draw_texts(rng))


TASKS: dict[str, Task] = {
    task.__name__: task for task in (arithmetic, precedence, threshold, of_list, keep_some, of_text)
}
