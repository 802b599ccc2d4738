"""Ingest at the published size: 158,667 prompts in eight data sets, and 1,483 held-out prompts.

The prompts are generated, the same every time: words drawn as in natural text (Zipf), 20 to 400
of them; 2 % repeat an earlier prompt, 3 % change one word of it, 0.5 % quote a held-out prompt.
Ours is the whole stage's work, from files to tables. The peer is the deduplication alone as rensa
itself offers it (RMinHashDeduplicator over the same shingles; it trusts its own estimates).
"""

import argparse
import json
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rensa import RMinHash, RMinHashDeduplicator

from fusion.ingest import ingest_datasets
from fusion.ingest.near_duplicates import NUM_HASHES, SEED, SHINGLE_WORDS, num_bands
from fusion.ingest.words import words_and_symbols_of
from fusion.recipe import Recipe

# FuseChat-3.0's data sets (arXiv 2503.04222, table 1).
TRAIN = {
    "ultrafeedback": 51_098,
    "magpie-pro": 20_374,
    "helpsteer2": 9_435,
    "openmathinstruct-2": 51_803,
    "leetcode": 3_113,
    "self-oss-instruct": 12_892,
    "alpaca-gpt4-zh": 2_471,
    "magpie-qwen2-zh": 7_481,
}
TEST = {"gsm8k": 1_319, "humaneval": 164}
EXCLUDING = ("ultrafeedback", "helpsteer2", "alpaca-gpt4-zh")
TARGET_S = 120.0
_VOCABULARY = 50_000


def main() -> None:
    """Make the data, run ours and the peer, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="Share of the published prompts.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        texts = _generate(Path(folder), options.scale)
        ours = _run_ours(Path(folder))
    peer = _run_peer(texts)
    figure = {
        "ours": round(ours["seconds"], 1),
        "peer": round(peer["seconds"], 1),
        "ratio": round(ours["seconds"] / peer["seconds"], 2),
        "unit": "s",
        "target": TARGET_S,
        "met": ours["seconds"] <= TARGET_S,
    }
    print(f"{'figure':<10}{'ours':>8}{'peer':>8}{'ratio':>7}  unit  target  met")
    print(
        f"{'seconds':<10}{figure['ours']:>8}{figure['peer']:>8}{figure['ratio']:>7}  s     "
        f"{TARGET_S:<6}  {figure['met']}"
    )
    context = {"prompts": len(texts), "ours": ours, "peer": peer}
    print(json.dumps({"name": "ingest", "figures": {"seconds": figure}, "context": context}))


def _generate(folder: Path, scale: float) -> list[str]:
    """A file a data set; the texts of all train prompts in the recipe's order."""
    generator = np.random.default_rng(0)
    shares = np.cumsum(1 / np.arange(1, _VOCABULARY + 1))
    held_out: list[str] = []
    for name, size in TEST.items():
        made = [_text(generator, shares) for _ in range(round(size * scale))]
        _write(folder / f"{name}.jsonl", made)
        held_out += made
    texts: list[str] = []
    for name, size in TRAIN.items():
        start = len(texts)
        for _ in range(round(size * scale)):
            texts.append(_train_text(generator, shares, texts, held_out))
        _write(folder / f"{name}.jsonl", texts[start:])
    return texts


def _train_text(
    generator: np.random.Generator, shares: Any, earlier: list[str], held_out: list[str]
) -> str:
    draw = generator.random()
    if draw < 0.05 and earlier:
        text = earlier[generator.integers(len(earlier))]
        return text if draw < 0.02 else f"{text.rpartition(' ')[0]} otherwise"
    text = _text(generator, shares)
    if draw < 0.055:
        quote = held_out[generator.integers(len(held_out))].split()
        return f"{text} {' '.join(quote[:20])}"
    return text


def _text(generator: np.random.Generator, shares: Any) -> str:
    length = int(np.clip(generator.lognormal(4, 0.7), 20, 400))
    drawn = np.searchsorted(shares, generator.random(length) * shares[-1])
    return " ".join(f"{_LETTERS[word % 676]}{_LETTERS[word // 676]}" for word in drawn)


_LETTERS = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(676)]


def _write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))


def _run_ours(folder: Path) -> dict[str, Any]:
    started, busy = time.perf_counter(), time.process_time()
    ingested = ingest_datasets(_recipe(folder))
    dropped: Counter[str] = Counter()
    for counts in ingested.by_dataset.values():
        dropped.update(counts.dropped)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_s": round(time.process_time() - busy, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "results": ingested.prompts.num_rows,
        "dropped": dict(dropped),
    }


def _recipe(folder: Path) -> Recipe:
    datasets = [
        {
            "name": name,
            "path": str(folder / f"{name}.jsonl"),
            "domain": "instruction",
            "split": split,
            "fields": {"prompt": "prompt"},
            "exclude_topics": ["code", "math"] if name in EXCLUDING else [],
        }
        for split, names in (("train", TRAIN), ("test", TEST))
        for name in names
    ]
    model = {"name": "one", "model": "one"}
    return Recipe.model_validate(
        {"name": "b", "target": {"model": "t"}, "sources": [model], "datasets": datasets}
    )


def _run_peer(texts: list[str]) -> dict[str, Any]:
    started = time.perf_counter()
    deduplicator = RMinHashDeduplicator(0.8, NUM_HASHES, True, num_bands(0.8), SEED)
    kept = 0
    for start in range(0, len(texts), 4096):
        shingles = [_shingles(text) for text in texts[start : start + 4096]]
        sketches = RMinHash.from_token_sets(shingles, NUM_HASHES, SEED)
        named = ((str(start + place), sketch) for place, sketch in enumerate(sketches))
        kept += sum(deduplicator.add_pairs(named))
    return {"seconds": time.perf_counter() - started, "kept": kept}


def _shingles(text: str) -> list[str]:
    words = words_and_symbols_of(text)
    last = len(words) - SHINGLE_WORDS + 1
    return [" ".join(words[at : at + SHINGLE_WORDS]) for at in range(last)]


if __name__ == "__main__":
    main()
