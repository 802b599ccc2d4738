"""Prompts as message lists: one user turn, turns marked within a text, or a given history."""

import re
import unicodedata
from typing import Any

from fusion.ingest.fields import checked_text
from fusion.ingest.rows import RowError

Message = dict[str, str]

# Unicode's categories of separators, control and (zero-width) format characters.
_INVISIBLE = {"Zs", "Zl", "Zp", "Cc", "Cf"}
_EXPECTED_ROLES = (
    "expected at most one turn of system, the first, then user and assistant by turns, user last, "
    "in lower case"
)


def user_turn(text: str) -> list[Message]:
    """A prompt of one turn.

    Raises:
        RowError: the text shows nothing.
    """
    return check_conversation([{"role": "user", "content": text}])


def marked_turns(text: str, marker: str) -> list[Message]:
    """A prompt whose further turns each begin with `marker`, User or Assistant and a line's end.

    HelpSteer2 writes its conversations so, with the marker <extra_id_1>.

    Raises:
        RowError: the turns do not alternate, or the last is not the user's.
    """
    first, *further = re.split(rf"\n?{re.escape(marker)}(User|Assistant)\n", text)
    turns = [{"role": "user", "content": first}]
    for role, content in zip(further[::2], further[1::2], strict=True):
        turns.append({"role": role.lower(), "content": content})
    return check_conversation(turns)


def history(value: Any) -> list[Message]:
    """A prompt given as a list of {role, content}.

    Raises:
        RowError: it is no such list, or its turns are not a conversation that a user ends.
    """
    if isinstance(value, str):
        detail = "messages is one text; expected a list of {role, content}, not its JSON as a text"
        raise RowError("bad_messages", detail)
    if not isinstance(value, list) or not value:
        raise RowError("bad_messages", "messages is not a list with at least one turn")
    return check_conversation([_message(turn) for turn in value])


def check_conversation(messages: list[Message]) -> list[Message]:
    """The messages, if user and assistant alternate after at most one system turn, user last.

    Raises:
        RowError: they do not, or a turn of the user shows nothing.
    """
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    expected = ["user" if position % 2 == 0 else "assistant" for position in range(len(turns))]
    if [turn["role"] for turn in turns] != expected or len(turns) % 2 == 0:
        roles = ", ".join(message["role"] for message in messages)
        raise RowError("bad_messages", f"the roles are {roles}; {_EXPECTED_ROLES}")
    if not all(_is_visible(turn["content"]) for turn in turns if turn["role"] == "user"):
        raise RowError("empty_prompt", "a user turn has no visible character")
    return messages


def _is_visible(text: str) -> bool:
    """Whether a text holds more than white space, control and format characters."""
    return any(unicodedata.category(character) not in _INVISIBLE for character in text)


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
        raise RowError("bad_messages", "a turn is not {role, content}")
    role = checked_text(turn["role"], "role")
    return {"role": role, "content": checked_text(turn["content"], "content")}
