"""Real pairs to look at: which are shown, and how a conversation is laid out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

NUM_PAIRS = 10
_MAX_CHARACTERS = 6_000

# C0 controls but tab and newline, DEL, and the bidirectional overrides become visible symbols:
# they are invisible in HTML and can make a text read as what it is not.
_VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)}
_VISIBLE |= {0x7F: 0x2421} | dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)


@dataclass(frozen=True)
class Turn:
    """One message; `num_cut` characters at its end are not shown."""

    role: str
    text: str
    num_cut: int


@dataclass(frozen=True)
class Pair:
    """One preference pair as the page shows it."""

    domain: str
    dataset: str
    source: str
    rejected_source: str
    prompt: list[Turn]
    chosen: list[Turn]
    rejected: list[Turn]
    chosen_reward: float | None
    rejected_reward: float | None
    margin: float | None


def choose_pairs(preferences: pl.DataFrame, number: int = NUM_PAIRS) -> list[Pair]:
    """Up to `number` pairs, spread over domains and sources, the same for the same table.

    Domains and then sources take turns; within both the order is that of prompt_id, a hash, and
    so favours nothing.
    """
    turns = preferences.sort("prompt_id", "source", "rejected_source").with_columns(
        round=pl.int_range(pl.len()).over("domain", "source")
    )
    turns = turns.sort("domain", "round", "source").with_columns(
        turn=pl.int_range(pl.len()).over("domain")
    )
    chosen = turns.sort("turn", "domain").head(number)
    return [_pair(row) for row in chosen.iter_rows(named=True)]


def _pair(row: Mapping[str, Any]) -> Pair:
    return Pair(
        domain=row["domain"],
        dataset=row["dataset"],
        source=row["source"],
        rejected_source=row["rejected_source"],
        prompt=_turns(row["prompt"]),
        chosen=_turns(row["chosen"]),
        rejected=_turns(row["rejected"]),
        chosen_reward=row["chosen_reward"],
        rejected_reward=row["rejected_reward"],
        margin=row["margin"],
    )


def _turns(messages: Iterable[Mapping[str, str]]) -> list[Turn]:
    return [
        Turn(
            role=message["role"],
            text=message["content"][:_MAX_CHARACTERS].translate(_VISIBLE),
            num_cut=max(0, len(message["content"]) - _MAX_CHARACTERS),
        )
        for message in messages
    ]
