"""A prompt that was left out, and why: often for another, with which it has something in common."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Match:
    """A train prompt that is dropped because of another prompt, which stays."""

    rule: str
    prompt_id: str
    """Of the prompt that is dropped."""
    dropped: str
    """Its origin: data set and row."""
    kept: str
    """The origin of the prompt that stays."""
    similarity: float
    """Of the shingles; of an overlap, the share of the test prompt's words that it covers."""
    text: str
    """Where a prompt overlaps, the words that both share; else the last turn of the one kept."""


@dataclass(frozen=True)
class Drop:
    """A row that a rule left out; a line of the ingest log."""

    dataset: str
    row: int
    rule: str
    prompt_id: str | None = None
    """None where the row was left out before it was read as a prompt."""
    dropped: str | None = None
    """The origin of the prompt: data set, and the row's own id where it has one."""
    kept: str | None = None
    """The origin of the prompt that stays instead."""
    similarity: float | None = None
    """As in `Match`."""
    text: str | None = None
    """What the rule found: a path and its value, the sign of a topic, or as in `Match`."""
