"""Which failures are tried again, how often, and when too many stop sampling."""

import re
from pathlib import Path

import pytest

from fusion.failures import (
    RULES,
    SUSPECTED_AFTER,
    Failure,
    exceeds,
    is_settled,
    rule_of,
    say_excess,
    suspects_together,
)

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("reason", ["template", "too_long", "rejected"])
def test_what_fails_alike_every_time_is_tried_once(reason):
    assert rule_of(reason).attempts == 1
    assert is_settled(reason, 1)


@pytest.mark.parametrize("reason", ["timeout", "engine_error", "engine_died"])
def test_what_may_pass_is_settled_only_when_its_attempts_are_used_up(reason):
    attempts = rule_of(reason).attempts
    assert attempts > 1
    assert not is_settled(reason, attempts - 1)
    assert is_settled(reason, attempts)


@pytest.mark.parametrize("reason", ["empty", "looping"])
def test_another_seed_is_taken_where_the_same_one_would_fail_alike(reason):
    assert rule_of(reason).new_seed
    assert rule_of(reason).attempts > 1


@pytest.mark.parametrize("reason", ["empty", "looping"])
def test_the_likeliest_token_is_not_drawn_twice(reason):
    assert rule_of(reason, greedy=True).attempts == 1


def test_a_reason_of_another_stage_is_settled():
    assert is_settled("wrong_type", 1)


def test_the_last_attempt_of_a_suspect_is_made_alone():
    last = RULES["engine_died"].attempts - 1
    sizes = [suspects_together(deaths) for deaths in range(SUSPECTED_AFTER, last + 1)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


def test_a_share_is_too_large_only_above_the_limit():
    assert not exceeds(10, 100, 0.1)
    assert exceeds(11, 100, 0.1)
    assert exceeds(1, 100, 0.0)


def test_the_sentence_names_count_limit_and_the_last_three_examples():
    failures = [Failure(f"id{n}", "too_long", f"detail {n}") for n in range(5)]
    sentence = say_excess("llama", 1200, 2000, 0.1, failures)
    assert "1,200 of the 2,000 answers asked of llama" in sentence
    assert "failures.limit is 0.1" in sentence
    assert re.findall(r"id\d", sentence) == ["id2", "id3", "id4"]


def test_the_page_on_operations_says_how_often_each_failure_is_tried():
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| .+ \| (\d+) \|$", page, re.M))
    assert {reason: int(times) for reason, times in rows.items()} == {
        reason: rule.attempts for reason, rule in RULES.items()
    }
