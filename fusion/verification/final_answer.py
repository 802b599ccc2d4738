"""Finds the final answer in a reply: what is boxed, what follows `####` or a phrase, what is last.

A reply often weighs several candidates; the one that stands last counts.
"""

import re

# "answer" itself must be followed by "is" or a colon, so that "this answers the question" is none.
_PHRASE = re.compile(
    r"\banswers?\b[^\n.:：]{0,40}?(?:\b(?:is|are|equals)\b\s*[:：]?|[:：])"
    r"|(?:答案|答|结果|結果)\s*(?:应该|應該|应|應)?\s*(?:是|为|為|等于|等於|[:：])\s*[:：]?",
    re.IGNORECASE,
)
_WORKED = re.compile(r"^[ \t]*####", re.MULTILINE)
_BOX = re.compile(r"\\f?boxed\s*\{")
_EMPHASIS = "*_` \t"


def phrase_tails(reply: str) -> list[tuple[int, str]]:
    """What follows each "the answer is" (or `答案是`), to the end of the line, with its position.

    When nothing follows on that line, the next line that holds anything is meant.
    """
    return [(match.end(), _line_from(reply, match.end())) for match in _PHRASE.finditer(reply)]


def worked_tails(reply: str) -> list[tuple[int, str]]:
    """What follows each `####` at the start of a line (the form of GSM8K), with its position."""
    return [(match.end(), _line_from(reply, match.end())) for match in _WORKED.finditer(reply)]


def boxes(reply: str) -> list[tuple[int, str]]:
    r"""The content of each `\boxed{...}` whose braces close, with its position."""
    found = ((match.end(), _braced(reply, match.end())) for match in _BOX.finditer(reply))
    return [(position, content) for position, content in found if content is not None]


def last_line(reply: str) -> str:
    """The last line that holds anything, or an empty string."""
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _line_from(text: str, position: int) -> str:
    rest = text[position:].lstrip(_EMPHASIS + "\n\r:：")
    return rest.split("\n", 1)[0].strip(_EMPHASIS + "\r")


def _braced(text: str, start: int) -> str | None:
    depth = 1
    for brace in re.finditer(r"(?<!\\)[{}]", text[start:]):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return text[start : start + brace.start()].strip()
    return None
