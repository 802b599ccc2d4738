"""Multiple choice: one letter from A to J."""

import re
import unicodedata
from time import perf_counter

from fusion.verification.final_answer import (
    boxes,
    ending,
    last_line,
    phrase_tails,
    worked_tails,
)
from fusion.verification.task import Malformed, Task, Verdict

_WRAPPERS = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}")
# A letter that opens a line as its statement: "B", "B.", "B) Paris", "(B)", "option B", "选B".
# "(B) is wrong" is but a mention.
_LEADING = re.compile(
    r"^(?:(?:the\s+)?(?:option|choice)|选项?|選項?)?\s*"
    r"(?:[(\[【]\s*([A-J])\s*[)\]】]\s*(?:[.:,;、。]|$)|([A-J])\s*(?:[)\]}.:,;、。]|$))",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"[(\[【]\s*([A-J])\s*[)\]】]")
_NAMED = re.compile(r"(?:\b(?:option|choice)\s+|选项?\s*|選項?\s*)[(\[]?([A-J])\b", re.IGNORECASE)
_FIRST_IN_PHRASE = re.compile(r"^(?:(?:the\s+)?(?:option|choice)\s+)?([A-J])(?![A-Za-z'’])")


def read_gold(gold: str) -> str | None:
    """The letter of a gold such as `B`, `(B)` or `B. Paris`, or None."""
    text = _plain(gold).strip()
    bracketed = _BRACKETED.match(text)
    return bracketed.group(1) if bracketed else _leading_letter(text)


def read_choice(reply: str) -> str | None:
    r"""The letter a reply settles on, or None.

    What the last `\boxed{}`, `####` or "the answer is" names counts; then a letter that opens the
    last line or the whole reply; then the last bracketed letter or "option X". A bare capital in
    running prose is an article or a pronoun, so it never counts.
    """
    text = _plain(ending(reply))
    marked = sorted(phrase_tails(text) + boxes(text) + worked_tails(text))
    for _, tail in reversed(marked):
        letter = _leading_letter(tail) or _first_letter(tail)
        if letter:
            return letter
    opening = _leading_letter(last_line(text)) or _leading_letter(text.strip())
    if opening:
        return opening
    mentions = [(m.start(), m.group(1)) for p in (_BRACKETED, _NAMED) for m in p.finditer(text)]
    return max(mentions)[1].upper() if mentions else None


def verify_choice(task: Task) -> Verdict | Malformed:
    """The verdict on one task."""
    gold = read_gold(task.gold or "")
    if gold is None:
        return Malformed(f"gold {task.gold!r} is no choice: give one letter from A to J")
    start = perf_counter()
    letter = read_choice(task.response)
    if letter is None:
        return Verdict(False, "no_answer", perf_counter() - start)
    reason = "equal" if letter == gold else "wrong_answer"
    return Verdict(letter == gold, reason, perf_counter() - start)


def _plain(text: str) -> str:
    unwrapped = _WRAPPERS.sub(r"\1", unicodedata.normalize("NFKC", text))
    return re.sub(r"[*_`$]", "", unwrapped)


def _leading_letter(text: str) -> str | None:
    match = _LEADING.match(text.strip())
    return (match.group(1) or match.group(2)).upper() if match else None


def _first_letter(tail: str) -> str | None:
    bracketed = _BRACKETED.search(tail)
    if bracketed:
        return bracketed.group(1)
    match = _FIRST_IN_PHRASE.match(tail.strip())
    return match.group(1).upper() if match else None
