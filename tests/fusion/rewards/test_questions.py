"""What a judge is asked, and how its reply is read."""

import pytest

from fusion.recipe import Judge
from fusion.rewards.questions import ask_for_choice, ask_for_rating, read_choice, read_rating

JUDGE = Judge(url="http://127.0.0.1:1/v1")
PROMPT = [{"role": "user", "content": "What is 2 + 2?"}]


def test_a_rating_is_asked_for_on_the_recipe_s_scale_and_by_its_measure():
    judge = JUDGE.model_copy(update={"lowest": 0.0, "highest": 5.0, "instruction": "Be strict."})
    (message,) = ask_for_rating(judge, PROMPT, "It is 4.")
    assert message["role"] == "user"
    for part in ("Be strict.", "from 0 (worst) to 5 (best)", "What is 2 + 2?", "It is 4."):
        assert part in message["content"]


def test_a_choice_shows_both_answers_in_the_order_given():
    (message,) = ask_for_choice(JUDGE, PROMPT, "four", "five")
    assert message["content"].index("four") < message["content"].index("five")


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Rating: 7", 7.0),
        ("**Rating:** 10", 10.0),
        ("Rating: 3? No.\nRating: 8", 8.0),
        ("Rating: 11", None),
        ("Rating: -2", None),
        ("I would say 7", None),
        ("", None),
    ],
)
def test_the_last_rating_on_the_scale_counts(reply, rating):
    assert read_rating(JUDGE, reply) == rating


@pytest.mark.parametrize(
    ("reply", "share"),
    [
        ("Better: first", 1.0),
        ("Better: SECOND.", 0.0),
        ("**Better:** tie", 0.5),
        ("Better: first\nOn reflection.\nBetter: second", 0.0),
        ("Better: neither", None),
        ("first", None),
    ],
)
def test_the_last_choice_counts(reply, share):
    assert read_choice(reply) == share
