"""Near duplicates: which prompts are alike, which of them stays, and what MinHash may miss."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.ingest.near_duplicates import (
    NUM_HASHES,
    find_near_duplicates,
    jaccard,
    num_bands,
)
from fusion.ingest.words import words_and_symbols_of

STORY = (
    "Write a short story about a lighthouse keeper who finds a letter in a bottle on the beach, "
    "reads it aloud to the gulls, and decides to answer the stranger who wrote it many years ago."
)
CHINESE = (
    "请写一个关于灯塔看守人的短篇故事，他在海滩上发现了一个漂流瓶，里面有一封信，"
    "他大声读给海鸥听，并决定给多年以前写信的陌生人回信，然后把自己的回信放进同一个瓶子里扔回大海。"
)


def prompt(text: str, name: str, split: str = "train", dataset: str = "d") -> dict[str, Any]:
    turns = text.split("|")
    roles = ["user", "assistant"] * len(turns)
    return {
        "prompt_id": f"id of {name}",
        "dataset": dataset,
        "split": split,
        "origin": name,
        "messages": [{"role": r, "content": t} for r, t in zip(roles, turns, strict=False)],
    }


def dropped(*prompts: dict[str, Any], threshold: float = 0.8) -> list[tuple[str, str, str]]:
    matches = find_near_duplicates(prompts, threshold)
    return [(match.dropped, match.kept, match.rule) for match in matches]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (STORY, STORY.replace("many", "some")),
        (STORY, STORY.upper().replace(",", "").replace("FINDS", "discovers")),
        (STORY, "Please: " + STORY),
        (CHINESE, CHINESE.replace("大海", "海里")),
    ],
)
def test_later_of_two_nearly_equal_prompts_is_dropped(first: str, second: str) -> None:
    assert dropped(prompt(first, "a"), prompt(second, "b")) == [("b", "a", "near_duplicate")]
    assert dropped(prompt(second, "b"), prompt(first, "a")) == [("a", "b", "near_duplicate")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (STORY, "Summarise this: " + STORY[:90]),
        (f"{STORY} Use 200 words.", f"{STORY} Use 300 words."),
        (f"{STORY} It has 20 pages and 3 heroes.", f"{STORY} It has 3 pages and 20 heroes."),
        (f"{STORY} Use two hundred words.", f"{STORY} Use Three hundred words."),
        (
            "四百八十是多少?请用数字回答,只写一个数字。",
            "九百八十是多少?请用数字回答,只写一个数字。",
        ),
        ("What is 2+3?", "What is 2-3?"),
        ("Name a red fruit.", "Name a red car."),
        ("写一首关于春天的诗。", "写一首关于秋天的诗。"),
        (f"Tell me more.|Yes: {STORY}|Now as a poem.", f"Tell me more.|Yes: {STORY}|In German."),
    ],
)
def test_prompts_that_ask_for_something_else_both_stay(first: str, second: str) -> None:
    assert dropped(prompt(first, "a"), prompt(second, "b")) == []


def test_test_prompt_stays_whatever_the_order_and_within_a_test_set_nothing_goes() -> None:
    near = STORY.replace("many", "some")
    train, test, other = (
        prompt(near, "train"),
        prompt(STORY, "test", "test", "t"),
        prompt(STORY.replace("short", "long"), "other", "test", "t"),
    )
    for order in ((train, test, other), (test, other, train)):
        assert dropped(*order) == [("train", "test", "near_held_out")]


def test_nearest_of_several_is_named_with_its_similarity_and_text() -> None:
    first = STORY.replace("short", "long").replace("stranger", "sailor")
    second = STORY.replace("gulls", "whales").replace("beach", "pier")
    third = second.replace("many years ago", "some years ago")
    prompts = [prompt(first, "a"), prompt(second, "b"), prompt(third, "c")]
    (match,) = find_near_duplicates(prompts, threshold=0.6)
    assert (match.dropped, match.kept, match.text) == ("c", "b", second)
    assert 0.6 <= match.similarity < 1


def test_template_of_a_data_set_makes_no_two_prompts_alike() -> None:
    words = [f"word{chr(97 + i)}{chr(97 + j)}" for i in range(6) for j in range(5)]
    prompts = [prompt(f"{STORY} The title is {word}.", word) for word in words]
    assert dropped(*prompts) == []
    assert len(dropped(*prompts[:10])) == 9  # too few to tell a template from duplicates


def test_every_pair_above_the_threshold_is_found_as_a_comparison_of_all_finds_it() -> None:
    generator = random.Random(7)
    vocabulary = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}x" for i in range(600)]
    texts = [" ".join(generator.choices(vocabulary, k=60)) for _ in range(150)]
    for text in texts[:100]:
        words = text.split()
        for _ in range(generator.randrange(1, 6)):
            words[generator.randrange(len(words))] = generator.choice(vocabulary)
        texts.append(" ".join(words))
    found = {
        (match.dropped, match.kept)
        for match in find_near_duplicates(
            [prompt(text, str(i)) for i, text in enumerate(texts)], 0.7
        )
    }
    assert found == _by_comparing_all(texts, 0.7)
    assert len(found) > 30


def _by_comparing_all(texts: list[str], threshold: float) -> set[tuple[str, str]]:
    kept: dict[int, set[tuple[str, ...]]] = {}
    pairs = set()
    for number, text in enumerate(texts):
        words = words_and_symbols_of(text)
        own = {tuple(words[i : i + 3]) for i in range(len(words) - 2)}
        likeness = {k: len(own & other) / len(own | other) for k, other in kept.items()}
        best = max(likeness, key=lambda k: (likeness[k], -k), default=None)
        if best is not None and likeness[best] >= threshold:
            pairs.add((str(number), str(best)))
        else:
            kept[number] = own
    return pairs


@given(st.floats(0.3, 1.0))
def test_bands_divide_the_hashes_and_miss_few_pairs_at_the_threshold(threshold: float) -> None:
    bands = num_bands(threshold)
    assert NUM_HASHES % bands == 0
    assert (1 - threshold ** (NUM_HASHES // bands)) ** bands <= 0.005


@given(st.sets(st.integers(0, 50)), st.sets(st.integers(0, 50)))
def test_jaccard_is_shared_over_all(first: set[int], second: set[int]) -> None:
    arrays = [np.array(sorted(each), np.uint64) for each in (first, second)]
    expected = len(first & second) / max(1, len(first | second))
    assert jaccard(*arrays) == pytest.approx(expected)
