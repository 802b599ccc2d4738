"""Training rows as tensors: what one worker computes in one step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from fusion.batching import ForwardPass, Shape, Step, steps_of_epoch
from fusion.logprobs import ReplyBatch, packed_batch, padded_batch
from fusion.losses import PairLogps

SFT_SIDES = ("reply_ids",)
PAIR_SIDES = ("chosen_ids", "rejected_ids")


@dataclass(frozen=True)
class Pass:
    """One forward pass: sequences of all rows side by side, chosen before rejected.

    A pass that does not count has weight 0. `reference` is None without stored log-probs.
    """

    batch: ReplyBatch
    weight: float
    reference: PairLogps | None


@dataclass(frozen=True)
class WorkerStep:
    """One worker's passes, and what the whole step is divided by.

    `num_tokens` counts the tokens of replies to be learned: all in sft, those of chosen in dpo.
    """

    passes: list[Pass]
    num_rows: int
    num_tokens: int


class StepRows:
    """Token rows that are asked for by step."""

    def __init__(self, rows: pa.Table, shape: Shape) -> None:
        self._rows = rows
        self._shape = shape
        self._sides = SFT_SIDES if "reply_ids" in rows.column_names else PAIR_SIDES
        prompts = _lengths(rows, "prompt_ids")
        self._replies = [_lengths(rows, side) for side in self._sides]
        lengths_of = _packed_lengths if shape.batching == "packed" else _padded_lengths
        self.sequences = [
            lengths_of(prompt, replies)
            for prompt, *replies in zip(prompts, *self._replies, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, asked: tuple[Step, int]) -> WorkerStep:
        """What the worker of this rank computes in a step."""
        step, rank = asked
        return WorkerStep(
            [self.make_pass(forward) for forward in step.passes[rank]],
            len(step.rows),
            sum(self._replies[0][row] for row in step.rows),
        )

    def make_pass(self, forward: ForwardPass) -> Pass:
        """The tensors of one forward pass."""
        rows = self._rows.take(list(forward.rows)).to_pylist()
        lay = packed_batch if self._shape.batching == "packed" else padded_batch
        batch = lay([(row["prompt_ids"], [row[side] for side in self._sides]) for row in rows])
        return Pass(batch, float(forward.counts), _reference(rows, batch))


class StepSampler:
    """The steps of an epoch as a DataLoader's batch sampler gives them, for one worker."""

    def __init__(self, rows: StepRows, shape: Shape, *, seed: int, rank: int) -> None:
        self._rows, self._shape, self._seed, self._rank = rows, shape, seed, rank
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self._rows) // self._shape.batch_size)

    def __iter__(self) -> Iterator[list[tuple[Step, int]]]:
        steps = steps_of_epoch(self._rows.sequences, self._shape, seed=self._seed, epoch=self.epoch)
        for step in steps:
            yield [(step, self._rank)]


def pair_logps(sums: Tensor, lengths: Tensor) -> PairLogps:
    """Sums of a pass, chosen before rejected, as pairs."""
    return PairLogps(*sums.chunk(2), *lengths.chunk(2))


def _reference(rows: Sequence[dict[str, Any]], batch: ReplyBatch) -> PairLogps | None:
    if "ref_chosen_logps" not in rows[0]:
        return None
    columns = ("ref_chosen_logps", "ref_rejected_logps")
    sums = torch.tensor([row[column] for column in columns for row in rows])
    return pair_logps(sums, batch.lengths)


def _padded_lengths(prompt: int, replies: Sequence[int]) -> list[int]:
    return [prompt + reply for reply in replies]


def _packed_lengths(prompt: int, replies: Sequence[int]) -> list[int]:
    """The prompt is computed with the first reply alone."""
    return [prompt + replies[0], *replies[1:]]


def _lengths(rows: pa.Table, column: str) -> list[int]:
    lengths: list[int] = pc.list_value_length(rows[column]).to_pylist()
    return lengths
