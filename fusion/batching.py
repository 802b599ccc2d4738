"""How a step's rows become forward passes: shared out to workers, grouped by length, within a
budget of tokens. The rows of a step are fixed by the recipe; none of this changes the objective.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

# Shares of the budget and of a pass's longest row; see `_belongs`. Both are ours.
BUSY, ALIKE = 0.25, 0.75

Batching = Literal["padded", "bucketed", "packed"]


@dataclass(frozen=True)
class Shape:
    """What bounds the forward passes of a step.

    Args:
        batch_size: Rows a step, over all workers.
        workers: How many share a step.
        tokens: Most tokens a forward pass of one worker, padding included.
        batching: padded: rows in their order; bucketed: rows of like length together; packed: the
            same, and laid end to end without padding, the prompt of a pair once.
    """

    batch_size: int
    workers: int
    tokens: int
    batching: Batching


@dataclass(frozen=True)
class ForwardPass:
    """The rows of one forward pass.

    One that does not count repeats a row with no weight, so that workers which exchange
    parameters or gradients in every pass make equally many.
    """

    rows: tuple[int, ...]
    counts: bool = True


@dataclass(frozen=True)
class Step:
    """One optimiser step: all its rows, and the forward passes of each worker."""

    rows: tuple[int, ...]
    passes: tuple[tuple[ForwardPass, ...], ...]


def steps_of_epoch(
    sequences: Sequence[Sequence[int]], shape: Shape, *, seed: int, epoch: int
) -> Iterator[Step]:
    """The steps of one pass over the rows, in an order that seed and epoch alone decide.

    Args:
        sequences: The lengths of each row's token sequences: one of a conversation, two of a pair;
            packed, the second without the prompt, which is computed with the first.
        shape: What bounds the forward passes.
        seed: The recipe's.
        epoch: Counted from 0.
    """
    order = list(range(len(sequences)))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    for start in range(0, len(order), shape.batch_size):
        yield plan_step(order[start : start + shape.batch_size], sequences, shape)


def plan_step(rows: Sequence[int], sequences: Sequence[Sequence[int]], shape: Shape) -> Step:
    """Share a step's rows out and group them; longest first, so that memory peaks at once."""
    shares = _shares(rows, sequences, shape)
    passes = [_grouped(share, sequences, shape) for share in shares]
    most = max(map(len, passes))
    filler = ForwardPass((min(rows, key=lambda row: sum(sequences[row])),), counts=False)
    evened = [tuple(own + [filler] * (most - len(own))) for own in passes]
    return Step(tuple(rows), tuple(evened))


def _shares(
    rows: Sequence[int], sequences: Sequence[Sequence[int]], shape: Shape
) -> list[list[int]]:
    """Rows by worker: in turn when padded, else each to the worker with the fewest tokens."""
    if shape.batching == "padded":
        return [list(rows[worker :: shape.workers]) for worker in range(shape.workers)]
    shares: list[list[int]] = [[] for _ in range(shape.workers)]
    loads = [0] * shape.workers
    for row in sorted(rows, key=lambda row: (-sum(sequences[row]), row)):
        worker = loads.index(min(loads))
        shares[worker].append(row)
        loads[worker] += sum(sequences[row])
    return shares


def _grouped(
    rows: Sequence[int], sequences: Sequence[Sequence[int]], shape: Shape
) -> list[ForwardPass]:
    """Forward passes within the budget; a row beyond it goes alone."""
    if shape.batching != "padded":
        rows = sorted(rows, key=lambda row: (-max(sequences[row]), row))
    groups: list[list[int]] = []
    for row in rows:
        if groups and _belongs(row, groups[-1], sequences, shape):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [ForwardPass(tuple(group)) for group in groups]


def _belongs(
    row: int, group: Sequence[int], sequences: Sequence[Sequence[int]], shape: Shape
) -> bool:
    """Whether a pass has room for a row, and the row is not so short that padding would cost more
    than another pass: a pass that is busy enough takes none much shorter than its longest.
    """
    if _tokens([*group, row], sequences, shape) > shape.tokens:
        return False
    is_busy = _tokens(group, sequences, shape) >= BUSY * shape.tokens
    is_short = max(sequences[row]) < ALIKE * max(sequences[group[0]])
    return not (shape.batching == "bucketed" and is_busy and is_short)


def _tokens(rows: Sequence[int], sequences: Sequence[Sequence[int]], shape: Shape) -> int:
    """Tokens of a forward pass over these rows, padding included."""
    lengths = [length for row in rows for length in sequences[row]]
    return sum(lengths) if shape.batching == "packed" else max(lengths) * len(lengths)
