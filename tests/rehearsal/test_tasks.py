"""The exercises keep apart what teaches, what is asked and what is held out."""

import ast
import json
import random

import pytest
from math_verify import parse, verify

from rehearsal.prompts import DOMAINS, FOLDER, Split, render_file
from rehearsal.tasks import Exercise, draw_exercise, find_world, generate_exercises

SPLITS: tuple[Split, ...] = ("train", "test")
TASKS = [(domain, task) for domain, tasks in DOMAINS.items() for task in tasks]


def read_rows(domain: str, split: Split) -> list[dict[str, str]]:
    text = (FOLDER / f"{domain}-{split}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def draw(domain: str, task: str, count: int = 20) -> list[Exercise]:
    rng = random.Random(0)
    return [draw_exercise(DOMAINS[domain][task], "pretraining", rng) for _ in range(count)]


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("split", SPLITS)
def test_shipped_prompts_are_what_the_generator_makes(domain: str, split: Split) -> None:
    assert (FOLDER / f"{domain}-{split}.jsonl").read_text() == render_file(domain, split)


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_world_repeats_itself_and_shares_no_content_with_another(domain: str) -> None:
    worlds = {
        world: list(generate_exercises(DOMAINS[domain], world, 60, seed=7))
        for world in ("pretraining", *SPLITS)
    }
    contents = {w: {(e.category, e.content) for e in drawn} for w, drawn in worlds.items()}
    assert all(find_world(e) == world for world, drawn in worlds.items() for e in drawn)
    assert len(set.union(*contents.values())) == sum(map(len, contents.values()))
    assert worlds["test"] == list(generate_exercises(DOMAINS[domain], "test", 60, seed=7))


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_held_out_prompt_is_asked_in_the_fusion(domain: str) -> None:
    train, test = ({row["prompt"] for row in read_rows(domain, split)} for split in SPLITS)
    assert not train & test
    assert len(test) >= 110


def test_train_prompts_of_unverified_domains_carry_no_gold() -> None:
    for domain in ("instruction", "chinese"):
        assert all("gold" not in row for row in read_rows(domain, "train"))
        assert all(row["gold"] for row in read_rows(domain, "test"))


@pytest.mark.parametrize("task", DOMAINS["math"])
def test_math_verify_accepts_the_reply_and_refuses_the_slip(task: str) -> None:
    for exercise in draw("math", task, 5):
        gold = parse(exercise.gold)
        assert verify(gold, parse(exercise.reply))
        assert not verify(gold, parse(exercise.slip))


def run_tests(reply: str, tests: str) -> None:
    code = reply.removeprefix("```python\n").removesuffix("```")
    exec(code + "\n" + tests, {})  # our own exercise, not a model's reply


@pytest.mark.parametrize("task", DOMAINS["code"])
def test_code_tests_pass_the_reply_and_fail_the_slip(task: str) -> None:
    for exercise in draw("code", task):
        run_tests(exercise.reply, exercise.tests)
        with pytest.raises(AssertionError):
            run_tests(exercise.slip, exercise.tests)


def test_code_rows_define_what_their_tests_call() -> None:
    for row in read_rows("code", "train"):
        ast.parse(row["tests"])
        assert f"check({row['entry_point']})" in row["tests"]


@pytest.mark.parametrize(
    ("domain", "task"), [t for t in TASKS if t[0] in ("instruction", "chinese")]
)
def test_exact_gold_is_the_reply_and_not_the_slip(domain: str, task: str) -> None:
    for exercise in draw(domain, task):
        assert exercise.reply == exercise.gold != exercise.slip
