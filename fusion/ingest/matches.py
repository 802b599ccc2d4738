"""A prompt that was left out because of another, and what the two have in common."""

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
