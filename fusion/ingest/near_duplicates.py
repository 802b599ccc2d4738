"""Train prompts that are nearly equal to a prompt before them.

Two prompts are nearly equal when they share enough of their shingles (runs of three words, or of
five characters in a script without spaces): |both| / |either|, the Jaccard similarity, over the
whole conversation and over its last turn. MinHash finds the candidates, the shingles themselves
decide. Prompts with other numbers in them are never nearly equal: they have another answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rensa import RMinHash, RMinHashLSH

from fusion.ingest.matches import Match
from fusion.ingest.words import Hashes, is_unspaced, numbers_of, run_hashes, words_and_symbols_of

SHINGLE_WORDS = 3
SHINGLE_CHARACTERS = 5
NUM_HASHES = 120  # divisible by many numbers of bands
SEED = 42
# Share of pairs just at the threshold that MinHash may miss; of more similar ones it misses fewer.
_MISS_RATE = 0.005
# A shingle in more than half of a data set's prompts is the template that they are written in.
_TEMPLATE_SHARE = 0.5
_TEMPLATE_PROMPTS = 20
_BATCH_PROMPTS = 4096


@dataclass(frozen=True)
class Shingles:
    """What is compared of a prompt: sorted, each shingle once."""

    whole: Hashes
    last_turn: Hashes
    numbers: tuple[str, ...]


def find_near_duplicates(prompts: Sequence[Mapping[str, Any]], threshold: float) -> list[Match]:
    """The train prompts that a test prompt or an earlier train prompt stays instead of.

    `prompts` are rows of the prompts table; where they are no test prompts, their order decides
    which of two stays. Of a test data set nothing is left out.
    """
    test_first = sorted(range(len(prompts)), key=lambda i: prompts[i]["split"] != "test")
    shingles = _without_templates(prompts, [_shingles(prompt["messages"]) for prompt in prompts])
    index = RMinHashLSH(threshold, NUM_HASHES, num_bands(threshold))
    matches = []
    for number, sketch in _sketches(shingles, test_first):
        kept = None
        if prompts[number]["split"] == "train":
            kept = _most_similar(shingles, number, index.query(sketch), threshold)
        if kept is None:
            index.insert(number, sketch)
        else:
            matches.append(_match(prompts, shingles, number, kept))
    return matches


def num_bands(threshold: float) -> int:
    """How many bands find all but `_MISS_RATE` of the pairs that are as similar as `threshold`.

    Of b bands of r hashes each at least one agrees with probability 1 - (1 - threshold**r)**b.
    """
    divisors = [rows for rows in range(1, NUM_HASHES + 1) if NUM_HASHES % rows == 0]
    enough = [r for r in divisors if (1 - threshold**r) ** (NUM_HASHES // r) <= _MISS_RATE]
    return NUM_HASHES // max(enough, default=1)


def jaccard(first: Hashes, second: Hashes) -> float:
    """Shared members over all members of two sorted sets; 0 where both are empty."""
    shared = np.intersect1d(first, second, assume_unique=True).size
    return shared / max(1, first.size + second.size - shared)


def _shingles(messages: Sequence[Mapping[str, str]]) -> Shingles:
    text = "\n".join(message["content"] for message in messages)
    last = messages[-1]["content"]
    whole = _shingles_of(text)
    return Shingles(whole, whole if len(messages) == 1 else _shingles_of(last), numbers_of(text))


def _shingles_of(text: str) -> Hashes:
    words = words_and_symbols_of(text)
    size = SHINGLE_CHARACTERS if is_unspaced(words) else SHINGLE_WORDS
    return np.unique(run_hashes(words, min(size, max(1, len(words)))))


def _without_templates(
    prompts: Sequence[Mapping[str, Any]], shingles: list[Shingles]
) -> list[Shingles]:
    """The shingles, less those that stand in most prompts of their data set."""
    members: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        members.setdefault(prompt["dataset"], []).append(number)
    own = shingles.copy()
    for numbers in members.values():
        common = _common(shingles[number].whole for number in numbers)
        if common.size:
            for number in numbers:
                own[number] = _less(shingles[number], common)
    return own


def _common(wholes: Iterable[Hashes]) -> Hashes:
    arrays = list(wholes)
    values, counts = np.unique(np.concatenate(arrays), return_counts=True)
    return values[counts > max(_TEMPLATE_SHARE * len(arrays), _TEMPLATE_PROMPTS)]


def _less(shingles: Shingles, common: Hashes) -> Shingles:
    whole, last = (
        np.setdiff1d(each, common, assume_unique=True)
        for each in (shingles.whole, shingles.last_turn)
    )
    return Shingles(whole, last, shingles.numbers)


def _sketches(shingles: Sequence[Shingles], order: Sequence[int]) -> Iterable[tuple[int, RMinHash]]:
    """Each prompt that has shingles, and its MinHash, a batch of prompts at a time."""
    numbers = [number for number in order if shingles[number].whole.size]
    for start in range(0, len(numbers), _BATCH_PROMPTS):
        batch = numbers[start : start + _BATCH_PROMPTS]
        tokens = [shingles[number].whole.view("V8").tolist() for number in batch]
        yield from zip(batch, RMinHash.from_token_sets(tokens, NUM_HASHES, SEED), strict=True)


def _most_similar(
    shingles: Sequence[Shingles], number: int, candidates: Iterable[int], threshold: float
) -> int | None:
    """The candidate nearest to a prompt, the first of several, if it is near enough."""
    own = shingles[number]
    # With too few or too many shingles, not even all of them shared would be enough.
    smallest, largest = threshold * own.whole.size, own.whole.size / threshold
    likely = [
        candidate
        for candidate in sorted(candidates)
        if shingles[candidate].numbers == own.numbers
        and smallest <= shingles[candidate].whole.size <= largest
    ]
    near = [
        candidate
        for candidate, found in zip(
            likely, _jaccards(own.whole, [shingles[each].whole for each in likely]), strict=True
        )
        if found >= threshold
    ]
    found = {candidate: _similarity(shingles[candidate], own) for candidate in near}
    best = max(found, key=found.__getitem__, default=None)
    return best if best is not None and found[best] >= threshold else None


def _jaccards(own: Hashes, others: Sequence[Hashes]) -> Sequence[float]:
    """`jaccard` of one set with each of many, none of them empty, in one go."""
    if not others:
        return ()
    sizes = np.array([other.size for other in others])
    joined = np.concatenate(others)
    places = np.minimum(np.searchsorted(own, joined), own.size - 1)
    starts = np.cumsum(sizes) - sizes
    shared = np.add.reduceat(own[places] == joined, starts, dtype=np.int64)
    similarities: list[float] = (shared / (own.size + sizes - shared)).tolist()
    return similarities


def _similarity(first: Shingles, second: Shingles) -> float:
    whole = jaccard(first.whole, second.whole)
    return min(whole, jaccard(first.last_turn, second.last_turn))


def _match(
    prompts: Sequence[Mapping[str, Any]], shingles: Sequence[Shingles], number: int, kept: int
) -> Match:
    is_held_out = prompts[kept]["split"] == "test"
    return Match(
        rule="near_held_out" if is_held_out else "near_duplicate",
        prompt_id=prompts[number]["prompt_id"],
        dropped=prompts[number]["origin"],
        kept=prompts[kept]["origin"],
        similarity=round(_similarity(shingles[number], shingles[kept]), 3),
        text=prompts[kept]["messages"][-1]["content"],
    )
