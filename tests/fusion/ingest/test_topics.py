"""Rules that tell code and mathematics from everything else, held against published prompts."""

import os
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from fusion.ingest.topics import find_topic

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("CRUCIBLE_DATA", ROOT.parent / "shared" / "data"))


def topic_of(text: str) -> str | None:
    found = find_topic(text)
    return found.topic if found else None


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("Write a Python function that reverses a list.", "code"),
        (
            "Why does this fail?\n```\nfor (int i = 0; i < n; i++) {\n```\nIt is code of mine.",
            "code",
        ),
        ("How do I centre a div with css?", "code"),
        ("SELECT name FROM users WHERE age > 3\nmake this faster", "code"),
        ("用Python写一个排序函数。", "code"),
        ("Solve for x: 3x + 5 = 20", "math"),
        ("Evaluate $\\int_0^1 x^2 dx$.", "math"),
        ("Tom has 3 apples and buys 4 more. How many apples does he have?", "math"),
        ("小明有8个苹果，吃了3个，还剩多少个？", "math"),
        ("Write a poem about the sea.", None),
        ("The function of the heart is to pump blood. Explain how.", None),
        ("Which 5 books shaped the 20th century?", None),
        ("How did the audience react to the class play?", None),
        ("Give me a recipe for two with rice and beans, in a table.", None),
        ("Summarise the plot of Taylor Swift's latest music video.", None),
        ("What are the four seasons, and why do we have them?", None),
        ("", None),
    ],
)
def test_topic_of_a_prompt(text: str, topic: str | None) -> None:
    assert topic_of(text) == topic


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("Write a Python function\n that adds.", "write a python function"),
        ("Why?\n```python\nx\n```", "```python"),
        ("What is $\\frac{1}{2}$?", "\\frac"),
        ("Explain the algorithm behind this program.", "program, algorithm"),
        ("Why is Python popular?", "python"),
        ("Is the equation easy? Prove it.", "equation, prove"),
        ("Ann has 3 apples and buys 4. How many are there?", "how many, 3, 4"),
    ],
)
def test_the_sign_of_a_topic_is_told(text: str, sign: str) -> None:
    found = find_topic(text)
    assert found is not None and found.sign == sign


def published(name: str, expression: pl.Expr) -> list[str]:
    if not (DATA / name).is_file():
        pytest.skip(f"no public data in {DATA}; set CRUCIBLE_DATA to a folder that holds it")
    texts: list[str] = pl.read_ndjson(DATA / name).select(expression).to_series().to_list()
    return texts


@pytest.mark.parametrize(
    ("name", "column", "topic", "share"),
    [
        ("humaneval.jsonl", "prompt", "code", 1.0),
        ("amc23.jsonl", "question", "math", 1.0),
        ("gsm8k_test.jsonl", "question", "math", 0.97),
        ("cmath_zh.jsonl", "question", "math", 0.95),
    ],
)
def test_prompts_of_a_topic_are_recognised(
    name: str, column: str, topic: str, share: float
) -> None:
    topics = Counter(map(topic_of, published(name, pl.col(column))))
    assert topics[topic] >= share * topics.total()


def test_of_mt_bench_coding_and_maths_go_and_nearly_all_else_stays() -> None:
    name = "mt_bench_questions.jsonl"
    categories = published(name, pl.col("category"))
    topics = list(map(topic_of, published(name, pl.col("turns").list.first())))
    by_category = Counter(zip(categories, topics, strict=True))
    assert by_category["coding", "code"] == by_category["math", "math"] == 10
    others = [t for c, t in zip(categories, topics, strict=True) if c not in ("coding", "math")]
    assert len(others) == 60
    assert sum(topic is not None for topic in others) <= 3


def test_of_mmlu_pro_subjects_without_calculation_stay() -> None:
    path = DATA / "mmlu_pro_validation.parquet"
    if not path.is_file():
        pytest.skip(f"no public data in {DATA}; set CRUCIBLE_DATA to a folder that holds it")
    subjects = ["health", "business", "biology", "economics", "philosophy", "history", "law"]
    kept = pl.read_parquet(path).filter(pl.col("category").is_in([*subjects, "psychology"]))
    assert [topic_of(text) for text in kept["question"]] == [None] * 40
