"""The process behind `math_pool`: one JSON line [gold, answer] in, one judgement out."""

import json
import logging
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Any

import sympy
from math_verify import parse, verify
from math_verify.parser import LatexExtractionConfig

from fusion.verification.math import is_same_text
from fusion.verification.math_pool import Judgement

_MEMORY_BYTES = 4 << 30
# What sympy makes of 1/0, of 0/0, and of a division by zero that it has not carried out.
_UNDEFINED = (sympy.zoo, sympy.nan, sympy.Pow(0, -1, evaluate=False))


class _TimeLimitError(BaseException):
    """No `Exception`: math-verify and sympy swallow those."""


def judge(gold: str, answer: str) -> Judgement:
    """Whether two formulas mean the same; they are read as LaTeX, never evaluated as Python."""
    gold_values = _parse(gold)
    if not gold_values or any(map(_is_undefined, gold_values)):
        return Judgement.MALFORMED_GOLD
    if not answer:
        return Judgement.NO_ANSWER
    if is_same_text(gold, answer):
        return Judgement.EQUAL
    answer_values = _parse(answer)
    is_equal = bool(answer_values) and verify(gold_values, answer_values, timeout_seconds=None)
    return Judgement.EQUAL if is_equal else Judgement.WRONG_ANSWER


def _is_undefined(value: Any) -> bool:
    return isinstance(value, sympy.Basic) and bool(value.has(*_UNDEFINED))


@lru_cache(maxsize=1024)
def _parse(formula: str) -> list[Any]:
    values: list[Any] = parse(
        f"${formula}$",
        extraction_config=[LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    return values


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _TimeLimitError

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(line: str, timeout_s: float) -> Judgement:
    gold, answer = json.loads(line)
    try:
        with _time_limit(timeout_s):
            return judge(gold, answer)
    except _TimeLimitError:
        return Judgement.TIMEOUT
    except MemoryError:
        return Judgement.MEMORY
    except RecursionError:
        return Judgement.WRONG_ANSWER


def main() -> None:
    """Answers lines until the parent closes the pipe."""
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    print("ready", flush=True)
    for line in sys.stdin:
        print(_answer(line, float(sys.argv[1])).value, flush=True)


if __name__ == "__main__":
    main()
