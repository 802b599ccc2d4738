"""The words of a text, as duplicates and overlaps are counted in them.

A word is a run of letters, digits and underscores, whatever its case and width. In a script without
spaces (Chinese, Japanese kana, Thai, Lao, Khmer, Burmese) each character counts as a word.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)
_WORD = rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+"
WORD = re.compile(_WORD)
# Punctuation of sentences tells no two prompts apart; of an exclamation mark (5!) none is sure.
_WORD_OR_SYMBOL = re.compile(rf"{_WORD}|[^\w\s.,;:?'\"‘’“”。，、；：？《》「」]")
_NUMBER = re.compile(
    r"\d+(?:[.,]\d+)*|[〇零一二两三四五六七八九十百千万亿]+|"
    r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|"
    r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|million|half|twice|double)\b",
    re.IGNORECASE,
)
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
# Odd, so that no bit of a word is lost; 2**64 divided by the golden ratio.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def words_of(text: str) -> list[str]:
    """The words of a text, symbols left out."""
    return WORD.findall(text)


def words_and_symbols_of(text: str) -> list[str]:
    """The words of a text and its symbols, punctuation left out: `2+3` is not `2-3`."""
    return _WORD_OR_SYMBOL.findall(text)


def numbers_of(text: str) -> tuple[str, ...]:
    """The numbers of a text in their order, in digits or in English or Chinese words."""
    found = _NUMBER.findall(text)
    return tuple(unicodedata.normalize("NFKC", number).casefold() for number in found)


def is_unspaced(words: list[str]) -> bool:
    """Whether more than half of the words are characters of a script without spaces."""
    return sum(_IS_UNSPACED.match(word) is not None for word in words) * 2 > len(words)


def run_hashes(words: Iterable[str], size: int) -> Hashes:
    """A hash for each run of `size` words, in their order; none where there are fewer words."""
    each = np.fromiter(map(_hash, words), np.uint64)
    num_runs = max(0, len(each) - size + 1)
    runs = np.zeros(num_runs, np.uint64)
    for position in range(size):
        runs = runs * _MULTIPLIER + each[position : position + num_runs]
    return runs


@lru_cache(maxsize=1 << 18)
def _hash(word: str) -> int:
    folded = unicodedata.normalize("NFKC", word).casefold()
    digest = hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
