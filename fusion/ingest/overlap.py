"""Train prompts that quote a test prompt: n-gram decontamination.

A run of `num_words` words (case, width and punctuation aside) that stands in a test prompt and in
a train prompt makes the train prompt contaminated. A run that stands in several prompts of a test
data set is their common wording, as "where m and n are relatively prime positive integers" in
contest mathematics, and marks nothing. A test prompt shorter than the run is left to the rules for
duplicates.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.ingest.matches import Match
from fusion.ingest.words import WORD, run_hashes, words_of

# A run in more prompts of a test data set than these is wording: two, or one in a hundred.
_WORDING_PROMPTS = 2
_WORDING_SHARE = 0.01

Prompts = Sequence[Mapping[str, Any]]


def find_contaminated(train: Prompts, test: Prompts, num_words: int) -> list[Match]:
    """The train prompts that share a run of words with a test prompt, each with its longest run."""
    owners = _owners(test, num_words)
    if not owners:
        return []
    known = np.array(sorted(owners), np.uint64)
    matches = []
    for prompt in train:
        text = _text(prompt)
        runs = run_hashes(words_of(text), num_words)
        # np.isin would sort what is known again for each prompt.
        places = np.minimum(np.searchsorted(known, runs), len(known) - 1)
        hits = np.flatnonzero(known[places] == runs)
        if hits.size:
            first, last = _longest(hits)
            kept = test[owners[int(runs[first])]]
            matches.append(_match(prompt, text, kept, first, last + num_words))
    return matches


def _owners(test: Prompts, num_words: int) -> dict[int, int]:
    """The runs that tell a test prompt from others of its data set, and the first that has each."""
    owners: dict[int, int] = {}
    counts: dict[str, Counter[int]] = {}
    for number, prompt in enumerate(test):
        runs = np.unique(run_hashes(words_of(_text(prompt)), num_words)).tolist()
        counts.setdefault(prompt["dataset"], Counter()).update(runs)
        for run in runs:
            owners.setdefault(run, number)
    sizes = Counter(prompt["dataset"] for prompt in test)
    for dataset, runs_of_dataset in counts.items():
        most = max(_WORDING_PROMPTS, _WORDING_SHARE * sizes[dataset])
        for run, count in runs_of_dataset.items():
            if count > most:
                owners.pop(run, None)
    return owners


def _longest(hits: NDArray[np.intp]) -> tuple[int, int]:
    """The first and last position of the longest stretch of neighbouring hits."""
    stretches = np.split(hits, np.flatnonzero(np.diff(hits) != 1) + 1)
    longest = max(stretches, key=len)
    return int(longest[0]), int(longest[-1])


def _match(
    prompt: Mapping[str, Any], text: str, kept: Mapping[str, Any], first: int, end: int
) -> Match:
    spans = [match.span() for match in WORD.finditer(text)]
    num_kept = len(words_of(_text(kept)))
    return Match(
        rule="contaminated",
        prompt_id=prompt["prompt_id"],
        dropped=prompt["origin"],
        kept=kept["origin"],
        similarity=round(min(1.0, (end - first) / num_kept), 3),
        text=text[spans[first][0] : spans[end - 1][1]],
    )


def _text(prompt: Mapping[str, Any]) -> str:
    return "\n".join(message["content"] for message in prompt["messages"])
