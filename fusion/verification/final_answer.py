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
_BRACE = re.compile(r"(?<!\\)[{}]")
_EMPHASIS = "*_` \t"
_BEFORE_LINE = re.compile(r"[*_` \t\n\r:：]*")
# A final answer stands near the end and is short: what is looked at has a bound, so has the time.
_MAX_REPLY = 100_000
_MAX_ANSWER = 2_000


def ending(reply: str) -> str:
    """The part of a reply that is searched for its final answer: its last 100,000 characters."""
    return reply[-_MAX_REPLY:]


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
    starts = [match.end() for match in _BOX.finditer(reply)]
    ends = _closing_braces(reply) if starts else {}
    return [(at, _cut(reply, at, ends[at]).strip()) for at in starts if at in ends]


def last_line(reply: str) -> str:
    """The last line that holds anything, or an empty string."""
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _line_from(text: str, position: int) -> str:
    match = _BEFORE_LINE.match(text, position)
    start = match.end() if match else position
    end = text.find("\n", start)
    return _cut(text, start, len(text) if end < 0 else end).strip(_EMPHASIS + "\r")


def _cut(text: str, start: int, end: int) -> str:
    return text[start : min(end, start + _MAX_ANSWER)]


def _closing_braces(text: str) -> dict[int, int]:
    """Where each brace that is closed closes, by the position behind its opening."""
    opened: list[int] = []
    ends = {}
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            opened.append(brace.end())
        elif opened:
            ends[opened.pop()] = brace.start()
    return ends
