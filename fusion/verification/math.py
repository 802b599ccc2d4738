"""Mathematical answers: numbers are compared exactly here, all else by math-verify."""

import importlib.metadata
import re
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

from fusion.verification.exact import normalise
from fusion.verification.final_answer import boxes, ending, phrase_tails, worked_tails
from fusion.verification.math_pool import Judgement, MathPool
from fusion.verification.number import (
    first_number,
    last_number,
    plain,
    read_number,
    same_number,
)
from fusion.verification.task import Limits, Malformed, Task, Verdict

_OPENING = re.compile(r"\$\$|\\\[|\\\(|\$")
_CLOSINGS = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$"}
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")  # GSM8K's annotations: <<48/2=24>>24
# A longer expression is no final answer, and symbolic comparison would only time out on it.
_MAX_EXPRESSION = 2_000
_MAX_PHRASES = 100
# What tables put where a value is missing; read as LaTeX they would be products of letters.
_NO_VALUES = frozenset(("nan", "n/a", "none", "null", "unknown", "inf", "infinity"))


class _Formula(NamedTuple):
    content: str
    end: int


@dataclass(frozen=True)
class _Comparison:
    gold: str
    answer: str


def read_gold(gold: str) -> str:
    r"""The answer that a gold states: a worked answer's `####` line, a box, or all of it."""
    marked = worked_tails(gold) + boxes(gold)
    return max(marked)[1] if marked else gold.strip()


def final_answer(reply: str) -> str | None:
    r"""The last thing a reply puts forward as its answer, in LaTeX or plain text, or None.

    Of all `\boxed{}`, `####` lines and "the answer is" phrases that hold mathematics, the last
    counts. Without any, the last formula or number does, whichever stands later.
    """
    text = _CALCULATOR.sub("", ending(reply))
    marked = [(at, content) for at, content in boxes(text) + worked_tails(text) if content]
    for position, tail in reversed(phrase_tails(text)[-_MAX_PHRASES:]):
        stated = None if "boxed" in tail else _stated(tail)
        if stated:
            marked.append((position, stated))
            break
    return max(marked)[1] if marked else _last_mathematics(text) or None


class MathVerifier:
    """Compares most answers at once; hands formulas to a pool of math-verify processes."""

    version = f"math-3+math-verify-{importlib.metadata.version('math-verify')}"

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = MathPool(limits.workers, limits.math_timeout_s)

    def verify(self, tasks: Sequence[Task]) -> list[Verdict | Malformed]:
        """Judges every task, in order."""
        prepared = [_prepare(task) for task in tasks]
        hard: dict[str, dict[_Comparison, None]] = {}
        for item in prepared:
            if isinstance(item, _Comparison):
                hard.setdefault(item.gold, {})[item] = None
        judged: dict[_Comparison, Verdict | Malformed] = {}
        with ThreadPoolExecutor(self._limits.workers) as threads:
            for verdicts in threads.map(self._judge, hard.values()):
                judged |= verdicts
        return [judged[item] if isinstance(item, _Comparison) else item for item in prepared]

    def close(self) -> None:
        """Ends the processes of the pool."""
        self._pool.close()

    def _judge(
        self, comparisons: Collection[_Comparison]
    ) -> dict[_Comparison, Verdict | Malformed]:
        """The verdicts on answers to one gold."""
        verdicts, start = {}, perf_counter()
        (gold,) = {comparison.gold for comparison in comparisons}
        judgements = self._pool.judge(gold, (comparison.answer for comparison in comparisons))
        for comparison, judgement in zip(comparisons, judgements, strict=True):
            verdicts[comparison] = _verdict(gold, judgement, perf_counter() - start)
            start = perf_counter()
        return verdicts


def _verdict(gold: str, judgement: Judgement, seconds: float) -> Verdict | Malformed:
    if judgement is Judgement.MALFORMED_GOLD:
        return Malformed(
            f"gold {gold[:80]!r} does not parse as mathematics, or divides by zero: mend it"
        )
    return Verdict(judgement is Judgement.EQUAL, judgement.value, seconds)


def _prepare(task: Task) -> Verdict | Malformed | _Comparison:
    start = perf_counter()
    gold = read_gold(task.gold or "")
    if not gold:
        return Malformed("the row has no gold to compare with: give one or drop the verifier")
    if normalise(_formula(gold)).lstrip("+- ") in _NO_VALUES:
        return Malformed(f"gold {gold[:80]!r} stands for no value: give a number or a formula")
    answer = final_answer(task.response)
    gold_number = read_number(gold)
    answer_number = read_number(answer) if answer else None
    if gold_number is not None and answer is None:
        return Verdict(False, "no_answer", perf_counter() - start)
    if gold_number is not None and answer_number is not None:
        correct = same_number(gold_number, answer_number)
        return Verdict(correct, "equal" if correct else "wrong_answer", perf_counter() - start)
    # An answer that is missing goes to the pool as well: only parsing shows whether the gold holds.
    return _Comparison(_formula(gold), _formula(answer or ""))


def _formula(text: str) -> str:
    latex = text.strip().strip("$").replace("∞", "\\infty ")
    return " ".join(latex.split())[:_MAX_EXPRESSION]


def _stated(tail: str) -> str | None:
    """The mathematics after "the answer is": a formula, what `=` leads to, or a number."""
    formula = _first_formula(tail)
    before = tail.split("$", 1)[0].split("\\", 1)[0]
    if formula and first_number(plain(before)) is None:
        return formula
    whole = tail.rstrip(".。 ")
    if read_number(whole) is not None:
        return whole
    right = whole.rsplit("=", 1)[-1].strip()
    return _bare_expression(right) or first_number(plain(right))


def _bare_expression(text: str) -> str | None:
    """A formula written without delimiters: one run of symbols, no sentence."""
    is_formula = re.fullmatch(r"[\\{}()\[\]\w+\-*/^=<>., |:]+", text, re.ASCII) is not None
    has_prose = re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text) is not None
    return text if is_formula and not has_prose and text.strip() else None


def _first_formula(text: str) -> str | None:
    first = next(_formulas(text), None)
    return first.content if first else None


def _last_mathematics(text: str) -> str | None:
    formula = next(iter(deque(_formulas(text), maxlen=1)), None)
    number = last_number(text)
    if formula and (number is None or number[0] <= formula.end):
        content = formula.content
        return content if read_number(content) is not None else content.rsplit("=", 1)[-1].strip()
    return number[1] if number else None


def _formulas(text: str) -> Iterator[_Formula]:
    r"""What stands in `$$`, `\[ \]`, `\( \)`, or in `$` on one line.

    An opening that nothing closes is known as such at once, so the time is linear.
    """
    last = {closing: text.rfind(closing) for closing in _CLOSINGS.values()}
    at = 0
    while opening := _OPENING.search(text, at):
        closing, start = _CLOSINGS[opening.group()], opening.end()
        end = text.find(closing, start + 1) if last[closing] > start else -1
        if end < 0 or (closing == "$" and ("$" in text[start:end] or "\n" in text[start:end])):
            at = opening.start() + 1
        else:
            at = end + len(closing)
            yield _Formula(text[start:end].strip(), at)


def is_same_text(first: str, second: str) -> bool:
    """Whether two formulas are written alike, spacing and case aside."""
    return normalise(plain(first)) == normalise(plain(second))
