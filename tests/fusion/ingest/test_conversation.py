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


@pytest.mark.parametrize("roles", [["system", "system", "user"], ["user", "tool"], ["User"]])
def test_wrong_roles_are_told_with_those_that_are_expected(roles: list[str]) -> None:
    with pytest.raises(RowError, match=", ".join(roles)) as error:
        history([{"role": role, "content": "Hi"} for role in roles])
    assert "at most one turn of system, the first" in error.value.detail
    assert "in lower case" in error.value.detail


def test_messages_as_the_text_of_a_list_are_told() -> None:
    with pytest.raises(RowError, match="not its JSON as a text"):
        history('[{"role": "user", "content": "Hi"}]')


@pytest.mark.parametrize("text", ["", " \n", "\x00", "\u200b", "\ufeff \u00a0\u2028\x1f"])
def test_user_turn_that_shows_nothing_is_an_empty_prompt(text: str) -> None:
    with pytest.raises(RowError) as error:
        user_turn(text)
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
