"""Reads numbers as people write them: commas, currency, percent, units, fractions."""

import re
import unicodedata
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

# Digits above this are compared as text elsewhere: int() refuses more than 4,300 of them.
_MAX_DIGITS = 400
# Decimals that differ less are one number: the rounding of math-verify (float_rounding=6).
_ROUNDING = Fraction(1, 2_000_000)

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_MAGNITUDE = (
    rf"(?:(?P<whole>\d+)[ +](?P<up>\d+)/(?P<down>\d+)|(?P<top>{_DIGITS})(?:/(?P<low>\d+))?)"
)
_CJK = r"\u3400-\u9fff"
# Words of two letters or more, Chinese characters, or a common one-letter unit after the number.
# "3x" is algebra, and so is "2pi": neither is a number with a unit.
_NO_UNIT = r"(?!(?:pi|sqrt|log|ln|exp|sin|cos|tan|and|or|to|frac|cdot|times)\b)"
# Words are taken whole (`++`): taken apart in every way, a sentence would need exponential time.
_WORD = rf"(?:{_NO_UNIT}[A-Za-z]{{2,}}+|[mgshL]\b|[{_CJK}]++|[°℃℉²³]|\^\{{?[23]\}}?)"
_UNIT = rf"{_WORD}(?:[\s./\-]*+{_WORD}|(?<=[A-Za-z{_CJK}])\s+a\b)*+\.?"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:USD|US\$|[$€£¥₹])?\s*(?P<inner>[-+]?)\s*{_MAGNITUDE}"
    rf"\s*(?P<percent>%)?\s*(?:{_UNIT})?"
)
_MENTION = re.compile(
    rf"(?<![\w.])(?:(?<![\d)])[-+])?(?:[$€£¥₹]\s*)?(?:{_DIGITS})(?:/\d+(?![\d.]))?(?:\s*%)?",
    re.ASCII,
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_GROUPING = re.compile(r"(?<=\d)(?:\\[,!;: ]|~)+(?=\d{3}(?!\d))")
_SPACING = re.compile(r"\\[,!;:> ]|\\q?quad|~|\\(?:left|right|displaystyle)(?![A-Za-z])")


@dataclass(frozen=True)
class Number:
    """An exact value; `is_percent` says that it was written with a percent sign."""

    value: Fraction
    is_percent: bool = False


def plain(text: str) -> str:
    """The text in ASCII digits and signs, without LaTeX spacing, dollar delimiters or emphasis."""
    text = unicodedata.normalize("NFKC", text).replace("−", "-").replace("–", "-")
    text = text.replace("{,}", ",").replace("\\%", "%").replace("\\$", "$")
    text = re.sub(r"\^\s*(?:\{\s*)?\\circ\s*\}?|\\degree", "°", text)
    text = _GROUPING.sub("", text)
    text = _SPACING.sub(" ", _TEXT.sub(r" \1 ", text))
    return " ".join(text.replace("*", "").split())


def read_number(text: str) -> Number | None:
    """The number that the whole text states, with a currency, a percent sign or a unit, or None.

    `x = 5` states 5.
    """
    bare = re.sub(r"^\\?[A-Za-z]\w?\s*=\s*", "", plain(text).strip(" $")).strip(" $")
    bare = _FRACTION.sub(r"\1/\2", bare).replace("/-", "/ -").rstrip(".。,，;；!！")
    # A group of three is needed after each comma; digits beyond the cap are no number here.
    if sum(character.isdigit() for character in bare) > _MAX_DIGITS:
        return None
    match = _NUMBER.fullmatch(bare)
    return _value(match) if match else None


def last_number(text: str) -> tuple[int, str] | None:
    """The last number mentioned anywhere in plain text, with where it ends, or None."""
    last = next(iter(deque(_MENTION.finditer(text), maxlen=1)), None)
    return (last.end(), last.group()) if last else None


def first_number(text: str) -> str | None:
    """The first number mentioned in plain text, or None."""
    match = _MENTION.search(text)
    return match.group() if match else None


def same_number(gold: Number, answer: Number) -> bool:
    """Whether two numbers agree; a percent sign on one side may be a unit or a hundredth.

    12% agrees with 12% and 0.12; it agrees with a bare 12 as well, as a question may ask
    "what percentage". Decimals agree to six places; integers only exactly.
    """
    if gold.is_percent == answer.is_percent:
        return _close(gold.value, answer.value)
    written, bare = (gold, answer) if gold.is_percent else (answer, gold)
    return _close(written.value, bare.value) or _close(written.value / 100, bare.value)


def _close(first: Fraction, second: Fraction) -> bool:
    if first.denominator == 1 and second.denominator == 1:
        return first == second
    return abs(first - second) < _ROUNDING


def _value(match: re.Match[str]) -> Number | None:
    signs = match["sign"] + match["inner"]
    if len(signs) > 1:
        return None
    try:
        if match["whole"]:
            value = int(match["whole"]) + Fraction(int(match["up"]), int(match["down"]))
        else:
            value = Fraction(match["top"].replace(",", "")) / int(match["low"] or 1)
    except ZeroDivisionError:
        return None
    return Number(-value if signs == "-" else value, match["percent"] is not None)
