"""Whether a prompt asks for code or for mathematics, told by rules from its text.

One strong sign is enough (a fenced block, a LaTeX fraction, "write a Python function"); of weak
signs (a language's name, "equation") it takes two of different kinds. The rules lean to keeping: a
prompt that but mentions a computer or a number is neither.
"""

import re
from collections.abc import Iterable, Set
from typing import Literal, NamedTuple

Topic = Literal["code", "math"]

# Further down a long prompt stands the document to work on, not what is asked.
_MAX_CHARACTERS = 20_000
_SIGN_CHARACTERS = 200

_WORD = re.compile(r"[\w+#.]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LANGUAGES = _words(
    "python python3 javascript typescript c++ c# .net golang kotlin php haskell matlab fortran "
    "cobol vba vb6 sql mysql postgres postgresql sqlite html html5 css bash powershell verilog "
    "vhdl hlsl cuda solidity pytorch tensorflow jax keras numpy pandas matplotlib django flask "
    "fastapi vue react.js vue.js next.js node.js nodejs laravel symfony streamlit gradio tidyverse "
    "dplyr ggplot ggplot2 tkinter wpf roblox ffmpeg leetcode java"
)
# Words of every day as well: they count only where something is to be written in them.
_AMBIGUOUS = _words(
    "react swift rust ruby shell unity angular shiny assembly perl scala lua r c go"
)
_CODE_WORDS = (
    _LANGUAGES,
    _words(
        "code coding programming script program programmer codebase repository repo pseudocode "
        "compiler debug debugging refactor"
    ),
    _words(
        "function functions method variable variables array arrays string strings integer boolean "
        "pointer struct class classes loop recursion recursive callback async dict hashmap"
    ),
    _words(
        "algorithm algorithms database api apis backend frontend framework library sdk docker "
        "kubernetes git github linux terminal server endpoint localhost deploy regex"
    ),
)
_MATH_WORDS = (
    _words(
        "equation equations inequality inequalities polynomial polynomials quadratic algebra "
        "algebraic geometry calculus trigonometry theorem arithmetic matrix logarithm logarithms "
        "fraction fractions integer integers combinatorics triangle radius diameter derivative "
        "integral"
    ),
    _words("math maths mathematics mathematical mathematician"),
    _words("solve calculate compute simplify prove proof express"),
    _words("probability percent percentage average ratio sum product remainder"),
)

_LANGUAGE = "(?:" + "|".join(map(re.escape, sorted({*_LANGUAGES, *_AMBIGUOUS}))) + r")(?![\w+#])"
_ARTEFACT = (
    r"(?:code|functions?|scripts?|programs?|class(?:es)?|methods?|algorithms?|query|queries|apis?|"
    r"endpoints?|modules?|librar(?:y|ies)|apps?|applications?|websites?|web ?pages?|components?|"
    r"bots?|scrapers?|parsers?|implementations?|snippets?|one-?liners?|commands?|macros?|"
    r"dockerfiles?|procedures?)"
)
_MAKE = (
    r"(?:write|create|implement|develop|build|make|code|generate|give me|show me|provide|design|"
    r"optimi[sz]e|refactor|debug|fix|rewrite|convert|translate|complete|program|add|modify)"
)
# Looked for only where a language is named.
_CODE_IN_LANGUAGE = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b{_MAKE}\b[^.?!\n]{{0,60}}[ (]{_LANGUAGE}[^.?!\n]{{0,60}}\b{_ARTEFACT}\b",
        rf"\b{_MAKE}\b[^.?!\n]{{0,60}}\b{_ARTEFACT}\b[^.?!\n]{{0,60}}\b(?:in|using|with) "
        rf"{_LANGUAGE}",
        rf"\b(?:in|using|with) {_LANGUAGE}[^.?!\n]{{0,80}}\b{_ARTEFACT}\b",
        rf"(?:用|使用|写一个|编写)\s*{_LANGUAGE}",
    )
)
_CODE = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^\s*(?:def \w+\s*\(.*\).*:|class \w+.*:\s*$|from [\w.]+ import \w|import [\w.]+$)",
        r"^\s*(?:#include\b|using namespace\b|public (?:static|class|void)\b|package main\b)",
        r"^\s*(?:for|while|if)\s*\(.*\)\s*\{\s*$|^\s*\}\s*(?:else\b.*)$",
        r"console\.log\(|system\.out\.|\bstd::|\bprintf\(|=>\s*\{|\)\s*\{\s*$|\);\s*$",
        r"</(?:div|html|body|script|span|table|head|p|ul|form)>",
        r"^\s*select\b[^.?!]{1,200}\bfrom\b[^.?!]{1,200}\b(?:where|join|group by|order by|limit)\b",
        r"\b(?:write|create|implement|complete|fix|debug|refactor|review) (?:\w+ ){0,3}"
        r"(?:code|functions?|source code|query|regex|regular expression)\b",
        r"\b(?:give|write|show|make|generate|create)\b[^.?!\n]{0,30}\bcodes?\b",
        r"\b(?:implement|write|create|develop) a (?:\w+ )?(?:program|script|algorithm) "
        r"(?:to|that|for)\b",
        r"\b(?:function|method) (?:(?:called|named) )?`?(?:\w+ ?)?`? ?(?:that|which) "
        r"(?:takes|accepts|returns|receives|prints|checks|calculates|computes|reverses|sorts)\b",
        r"\b(?:stack ?trace|traceback|segmentation fault|time complexity|o\(n(?: ?log ?n)?\)|"
        r"unit tests?|source code)\b",
        r"\b(?:syntax|compiler?|compilation|type|runtime|import|attribute|index|value)[ -]?error\b",
        r"(?:编写|写|实现|生成|给出|修改|调试|补全).{0,20}(?:代码|程序|脚本|函数|算法)",
    )
)
_FENCE = re.compile(r"^\s*(?:```|~~~)[ \t]*(?:\w+[ \t]*)?$", re.MULTILINE)
_MATH = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"\\(?:frac|dfrac|sqrt|sum|int|lim|prod|binom|cdot|times|pi|theta|alpha|leq?|geq?|sin|cos|"
        r"tan|log|ln|infty|mathbb|overline|angle|triangle)\b",
        r"\$[^$\n]{0,80}[=+^\\<>_][^$\n]{0,80}\$",
        r"\b(?:solve|simplify|factor(?:i[sz]e)?|evaluate|differentiate|integrate|express)\b"
        r"[^.?!\n]{0,60}(?:\bequations?\b|\binequalit|\bfor [a-z]\b|\d\s*[-+*/^=]|\b[a-z]\s*[=^])",
        r"\bprove\b[^.?!\n]{0,120}(?:\btheorem\b|\birrational|\bprime|\bdivisible|\bcontinuous|"
        r"\bconverge|\binteger|[=<>≤≥])",
        r"\b(?:derivative|integral|antiderivative|determinant|eigenvalues?|taylor series|"
        r"laplace transform) of\b",
        r"\b(?:find|calculate|compute|determine|what is|what's)\b[^.?!\n]{0,40}\b(?:area|perimeter|"
        r"volume|circumference|slope|hypotenuse|remainder|greatest common|least common|gcd|lcm|"
        r"square root|cube root|probability|median|mean|average|variance|standard deviation|sum|"
        r"product|quotient|percentage)\b[^.?!\n]{0,80}[\d(]",
        r"(?<![\w./-])\d+(?:\.\d+)?(?:\s*[+*×÷^=]\s*| [-/] )\d+(?:\.\d+)?(?:\s*[-+*/×÷=?]|\s*$)",
        r"\b[xyzn]\s*(?:\^|\*\*|²)\s*\d?\s*[-+=]|\b\d+[xyz]\b\s*[-+=]|\bf\(x\)\s*=|\bx ?\+ ?y\b",
        r"解方程|求解|求导|积分|因式分解|化简|列式|竖式|递等式",
    )
)
# A word problem asks for a quantity in a short text that gives numbers.
_QUANTITY = re.compile(
    r"\bhow (?:many|much|far|long|old|tall|fast|often|big)\b|\bwhat (?:is|was|are|were|will)\b|"
    r"\bwhat's\b|\bwhat (?:percent|fraction|speed|number|floor|age)|\btotal\b|\bprobability\b|"
    r"\bcalculate\b|多少|几分之|[几求]\S{0,12}[？?。]|计算|面积|周长|体积"
)
_NUMBER = re.compile(
    r"\d+(?:[.,]\d+)*|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|"
    r"thirty|forty|fifty|hundred|thousand|half|third|quarter|twice|double|dozen)\b|"
    r"[一二两三四五六七八九十百千]"
)
_WORD_PROBLEM_NUMBERS = 2
_WORD_PROBLEM_WORDS = 180
# In a text as short as this a language's name alone is what it is about.
_SHORT_WORDS = 60


class TopicSign(NamedTuple):
    """What a text asks for, and what told so."""

    topic: Topic
    sign: str


def find_topic(text: str) -> TopicSign | None:
    """`code` or `math` where the text asks for that, with its first sign; else None."""
    start = text[:_MAX_CHARACTERS].lower()
    words = frozenset(word.rstrip(".") for word in _WORD.findall(start))
    if sign := _sure_code(start, words):
        return TopicSign("code", sign)
    if sign := _first_match(_MATH, start):
        return TopicSign("math", sign)
    is_short = len(start.split()) <= _SHORT_WORDS
    language = min(words & _LANGUAGES, default="") if is_short else ""
    if sign := _several_kinds(_CODE_WORDS, words) or language:
        return TopicSign("code", sign)
    if sign := _several_kinds(_MATH_WORDS, words) or _word_problem(start):
        return TopicSign("math", sign)
    return None


def _sure_code(text: str, words: Set[str]) -> str:
    names_language = not words.isdisjoint(_LANGUAGES) or not words.isdisjoint(_AMBIGUOUS)
    if names_language and (sign := _first_match(_CODE_IN_LANGUAGE, text)):
        return sign
    if _kinds(_CODE_WORDS, words) and (fence := _FENCE.search(text)):
        return _sign(fence)
    return _first_match(_CODE, text)


def _first_match(patterns: Iterable[re.Pattern[str]], text: str) -> str:
    """The piece of the text that the first pattern to match has found; '' where none does."""
    return next((_sign(found) for pattern in patterns if (found := pattern.search(text))), "")


def _sign(found: re.Match[str]) -> str:
    return " ".join(found.group().split())[:_SIGN_CHARACTERS]


def _several_kinds(kinds: Iterable[frozenset[str]], words: Set[str]) -> str:
    """A word of each kind that is there, where there are two or more; else ''."""
    found = _kinds(kinds, words)
    return ", ".join(found) if len(found) > 1 else ""


def _kinds(kinds: Iterable[frozenset[str]], words: Set[str]) -> list[str]:
    return [min(words & kind) for kind in kinds if not words.isdisjoint(kind)]


def _word_problem(text: str) -> str:
    """The quantity that is asked for and the first numbers, in what looks like a word problem."""
    if len(text.split()) > _WORD_PROBLEM_WORDS or not (quantity := _QUANTITY.search(text)):
        return ""
    numbers = _NUMBER.findall(text)[:_WORD_PROBLEM_NUMBERS]
    if len(numbers) < _WORD_PROBLEM_NUMBERS:
        return ""
    return ", ".join([_sign(quantity), *numbers])
