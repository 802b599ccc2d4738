"""Exact match after normalisation."""

import unicodedata
from time import perf_counter

from fusion.verification.final_answer import boxes, ending, last_line, phrase_tails
from fusion.verification.task import Malformed, Task, Verdict

_WRAPPING = " \t*_`\"'“”‘’"
_TRAILING = ".,;:!?。、，；：！？…"


def normalise(text: str) -> str:
    """NFKC, case-folded, single spaces, without quotes, emphasis or trailing punctuation."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    bare = " ".join(folded.split())
    stripped = bare.strip(_WRAPPING).rstrip(_TRAILING + _WRAPPING)
    return stripped or bare


def judge_exact(reply: str, gold: str) -> tuple[bool, str]:
    r"""Whether the reply says the gold and nothing else as its answer, and the reason.

    The whole reply may equal the gold. Otherwise its final answer must: what the last
    `\boxed{}` or "the answer is" names, or, without either, the last line.
    """
    wanted = normalise(gold)
    if normalise(reply) == wanted:
        return True, "equal"
    if not reply.strip():
        return False, "no_answer"
    end = ending(reply)
    marked = [(where, tail) for where, tail in phrase_tails(end) + boxes(end) if tail]
    final = max(marked)[1] if marked else last_line(end)
    return (True, "equal") if normalise(final) == wanted else (False, "wrong_answer")


def verify_exact(task: Task) -> Verdict | Malformed:
    """The verdict on one task."""
    if task.gold is None or not task.gold.strip():
        return Malformed("the row has no gold to compare with: give one or drop the verifier")
    start = perf_counter()
    correct, reason = judge_exact(task.response, task.gold)
    return Verdict(correct, reason, perf_counter() - start)
