"""Prompts as message lists."""

from typing import Any

import pytest

from fusion.ingest.conversation import history, marked_turns, user_turn
from fusion.ingest.rows import RowError


def test_text_becomes_one_user_turn() -> None:
    assert user_turn("Hi") == [{"role": "user", "content": "Hi"}]


def test_history_keeps_system_and_earlier_turns() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?", "name": "dropped"},
    ]
    assert [turn["role"] for turn in history(turns)] == ["system", "user", "assistant", "user"]
    assert all(turn.keys() == {"role", "content"} for turn in history(turns))


@pytest.mark.parametrize(
    "turns",
    [
        [],
        "Hi",
        [{"role": "user"}],
        [{"role": "system", "content": "x"}],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi"}],
        [{"role": "assistant", "content": "Hi"}],
        [{"role": "tool", "content": "Hi"}],
        [{"role": "user", "content": "Hi"}, {"role": "system", "content": "x"}],
    ],
)
def test_history_that_is_no_conversation_is_malformed(turns: Any) -> None:
    with pytest.raises(RowError) as error:
        history(turns)
    assert error.value.reason == "bad_messages"


def test_blank_user_turn_is_an_empty_prompt() -> None:
    with pytest.raises(RowError) as error:
        user_turn(" \n")
    assert error.value.reason == "empty_prompt"


def test_marked_turns_become_a_history() -> None:
    text = "c#\n<extra_id_1>Assistant\nA language.\nBy Microsoft.\n<extra_id_1>User\nWhy sharp?"
    assert marked_turns(text, "<extra_id_1>") == [
        {"role": "user", "content": "c#"},
        {"role": "assistant", "content": "A language.\nBy Microsoft."},
        {"role": "user", "content": "Why sharp?"},
    ]


def test_unmarked_text_is_one_turn() -> None:
    assert marked_turns("c#", "<extra_id_1>") == user_turn("c#")


def test_marked_text_that_ends_in_an_answer_is_malformed() -> None:
    with pytest.raises(RowError):
        marked_turns("c#\n<extra_id_1>Assistant\nA language.", "<extra_id_1>")
