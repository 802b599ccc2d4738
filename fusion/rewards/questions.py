"""What a language model is asked when it judges, and how its reply is read."""

import re
from collections.abc import Sequence

from fusion.recipe import Judge

Message = dict[str, str]

_GOOD = (
    "A good answer does what was asked, is correct, complete and clear, and says no more than "
    "helps. Length alone is no merit."
)
_RATING = re.compile(r"rating[\s:*=]*(-?\d+(?:\.\d+)?)", re.IGNORECASE)
_CHOICE = re.compile(r"better\W{0,4}\s*(first|second|tie)\b", re.IGNORECASE)
_SHARE_OF_FIRST = {"first": 1.0, "second": 0.0, "tie": 0.5}


def ask_for_rating(judge: Judge, messages: Sequence[Message], answer: str) -> list[Message]:
    """The judge's prompt for one answer to a conversation."""
    task = (
        f"Rate the answer to the conversation below. {judge.instruction or _GOOD}\n"
        "Think briefly. Then end with one line, `Rating: N`, "
        f"N from {judge.lowest:g} (worst) to {judge.highest:g} (best).\n\n"
    )
    shown = f"{_show(messages)}\n\n[answer]\n{answer}\n[end of answer]"
    return [{"role": "user", "content": task + shown}]


def ask_for_choice(
    judge: Judge, messages: Sequence[Message], first: str, second: str
) -> list[Message]:
    """The judge's prompt for two answers to a conversation."""
    task = (
        f"Compare two answers to the conversation below. {judge.instruction or _GOOD}\n"
        "Their order means nothing. Think briefly. Then end with one line: "
        "`Better: first`, `Better: second` or `Better: tie`.\n\n"
    )
    shown = (
        f"{_show(messages)}\n\n[first answer]\n{first}\n[end of first answer]\n\n"
        f"[second answer]\n{second}\n[end of second answer]"
    )
    return [{"role": "user", "content": task + shown}]


def read_rating(judge: Judge, reply: str) -> float | None:
    """The last rating in a reply, None where there is none on the scale."""
    found = _RATING.findall(reply)
    if not found:
        return None
    rating = float(found[-1])
    return rating if judge.lowest <= rating <= judge.highest else None


def read_choice(reply: str) -> float | None:
    """What the first answer won in the last choice of a reply: 1, 0, half for a tie."""
    found = _CHOICE.findall(reply)
    return _SHARE_OF_FIRST[found[-1].lower()] if found else None


def _show(messages: Sequence[Message]) -> str:
    turns = "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in messages)
    return f"[conversation]\n{turns}\n[end of conversation]"
