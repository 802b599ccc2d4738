"""Answers that fell into a loop: they repeat one piece until they are cut off."""

from collections.abc import Sequence

# Long enough for a repeated paragraph; a loop of longer pieces rarely fits an answer four times.
LONGEST_PIECE = 256
LEAST_TIMES = 4
LEAST_TOKENS = 32
LEAST_SHARE = 0.25


def repeated_tail(tokens: Sequence[int]) -> int:
    """Length of the piece that the end of an answer repeats, 0 where it does not loop.

    The repetitions must be at least four, and cover at least 32 tokens and a quarter of the
    answer, so that a row of dashes or the same line thrice is no loop.
    """
    least = max(LEAST_TOKENS, LEAST_SHARE * len(tokens))
    for piece in range(1, min(LONGEST_PIECE, len(tokens) // LEAST_TIMES) + 1):
        covered = piece + _equal_at_distance(tokens, piece)
        if covered >= max(least, LEAST_TIMES * piece):
            return piece
    return 0


def _equal_at_distance(tokens: Sequence[int], distance: int) -> int:
    """How many tokens at the end equal the one `distance` before them."""
    position = len(tokens) - 1
    while position >= distance and tokens[position] == tokens[position - distance]:
        position -= 1
    return len(tokens) - 1 - position
