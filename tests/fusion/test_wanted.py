"""Wanted minus stored: what is asked again, and what never is."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from fusion.wanted import (
    sample_requests,
    scores_in_force,
    wanted_responses,
    wanted_verdicts,
)

PROMPTS = pl.DataFrame(
    {
        "prompt_id": ["p1", "p2", "p3"],
        "dataset": ["a", "a", "b"],
        "messages": [[{"role": "user", "content": str(i)}] for i in range(3)],
    }
)


def test_every_prompt_gets_the_samples_of_its_data_set():
    wanted = wanted_responses(PROMPTS, "key", {"a": 2, "b": 0})
    assert wanted.group_by("prompt_id").len().sort("prompt_id").rows() == [("p1", 2), ("p2", 2)]


@given(st.integers(0, 4), st.integers(0, 4))
def test_raising_the_number_of_samples_adds_and_changes_nothing(fewer, more):
    few = wanted_responses(PROMPTS, "key", {"a": fewer, "b": fewer})
    many = wanted_responses(PROMPTS, "key", {"a": fewer + more, "b": fewer + more})
    assert set(few["response_id"]) <= set(many["response_id"])
    assert many.height == 3 * (fewer + more)


def test_another_source_key_wants_other_answers():
    one = wanted_responses(PROMPTS, "one", {"a": 1, "b": 1})
    two = wanted_responses(PROMPTS, "two", {"a": 1, "b": 1})
    assert not set(one["response_id"]) & set(two["response_id"])


def test_a_request_names_only_the_missing_samples_of_a_prompt():
    wanted = wanted_responses(PROMPTS, "key", {"a": 3, "b": 1})
    missing = wanted.filter(pl.col("prompt_id") == "p1", pl.col("sample_index") != 1)
    assert sample_requests(missing, PROMPTS)["sample_indexes"].to_list() == [[0, 2]]


def test_changed_gold_wants_another_verdict():
    answers = pl.DataFrame(
        {
            "response_id": ["r"] * 2,
            "gold": ["1", "2"],
            "tests": [None] * 2,
            "entry_point": [None] * 2,
        }
    )
    assert wanted_verdicts(answers, "math-key")["score_id"].n_unique() == 2


def test_only_verdicts_on_today_s_gold_are_in_force_and_every_reward_is():
    answers = pl.DataFrame(
        {"response_id": ["a", "b"], "gold": ["1", "2"]},
    ).with_columns(tests=pl.lit(None, pl.String), entry_point=pl.lit(None, pl.String))
    earlier = answers.with_columns(gold=pl.lit("1"))
    verdicts = [
        wanted_verdicts(each, "key").select("score_id", "response_id", verdict=pl.lit(verdict))
        for each, verdict in ((earlier, "correct"), (answers.filter(gold="2"), "wrong"))
    ]
    scores = pl.concat(verdicts)
    assert scores_in_force(scores, answers, "key").sort("response_id").select(
        "response_id", "verdict"
    ).rows() == [("a", "correct"), ("b", "wrong")]
    rewards = pl.DataFrame({"score_id": ["x", "y"], "response_id": ["a", "other"]})
    rewards = rewards.with_columns(verdict=pl.lit(None, pl.String))
    assert scores_in_force(rewards, answers, "key")["response_id"].to_list() == ["a"]
