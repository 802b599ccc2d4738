"""Log-probs of reply tokens under a model: only the positions that predict a reply meet the
language-model head, and never all their logits at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from fusion.batching import Shape, plan_step

# Logits of one slice of positions, in numbers: 128 MiB in float32.
LOGITS_AT_ONCE = 1 << 25

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]


@dataclass(frozen=True)
class ReplyBatch:
    """Sequences of prompt and reply as a model takes them.

    Shapes: `inputs` holds `input_ids` and either `attention_mask` [sequences, width], or
    `position_ids` [1, tokens] that start anew with each sequence. `positions`, `targets` and
    `owners` are [reply tokens]: where in the flattened hidden states a token is predicted, the
    token, and which sequence it belongs to.
    """

    inputs: dict[str, Tensor]
    positions: Tensor
    targets: Tensor
    owners: Tensor
    lengths: Tensor

    @property
    def ends(self) -> Tensor:
        """The last token of the reply that each target belongs to, [reply tokens]."""
        return self.targets[self.lengths.cumsum(0) - 1][self.owners]

    @property
    def num_tokens(self) -> int:
        """Tokens of prompts and replies, padding left out."""
        mask = self.inputs.get("attention_mask")
        return self.size if mask is None else int(mask.sum())

    @property
    def size(self) -> int:
        """Tokens that the model computes, padding included."""
        return self.inputs["input_ids"].numel()

    def to(self, device: torch.device) -> "ReplyBatch":
        """The same on another device."""
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        rest = (self.positions, self.targets, self.owners, self.lengths)
        return ReplyBatch(inputs, *(tensor.to(device) for tensor in rest))


def padded_batch(sequences: Sequences) -> ReplyBatch:
    """One row a sequence, padded on the right to the longest."""
    width = max(len(prompt) + len(reply) for prompt, reply in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, (prompt, reply) in enumerate(sequences):
        tokens = torch.tensor([*prompt, *reply], dtype=torch.long)
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    starts = [row * width for row in range(len(sequences))]
    return _reply_batch({"input_ids": ids, "attention_mask": mask}, sequences, starts)


def packed_batch(sequences: Sequences) -> ReplyBatch:
    """All sequences end to end in one row; position ids tell the attention where each starts."""
    whole = [[*prompt, *reply] for prompt, reply in sequences]
    lengths = [len(tokens) for tokens in whole]
    ids = torch.tensor([token for tokens in whole for token in tokens], dtype=torch.long)
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    return _reply_batch(
        {"input_ids": ids.unsqueeze(0), "position_ids": positions}, sequences, starts
    )


def _reply_batch(
    inputs: dict[str, Tensor], sequences: Sequences, starts: Sequence[int]
) -> ReplyBatch:
    positions, owners = [], []
    for owner, ((prompt, reply), start) in enumerate(zip(sequences, starts, strict=True)):
        first = start + len(prompt) - 1
        positions.append(torch.arange(first, first + len(reply)))
        owners.append(torch.full((len(reply),), owner))
    lengths = torch.tensor([len(reply) for _, reply in sequences])
    targets = torch.tensor([token for _, reply in sequences for token in reply], dtype=torch.long)
    return ReplyBatch(inputs, torch.cat(positions), targets, torch.cat(owners), lengths)


def add_reply_head(model: Any) -> None:
    """Let a causal language model of transformers answer a `ReplyBatch`: see `call_reply_head`.

    Called without positions, targets and ends, its forward is what it was.
    """
    original = model.forward

    def forward(
        *args: Any,
        positions: Tensor | None = None,
        targets: Tensor | None = None,
        ends: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if positions is None or targets is None or ends is None:
            return original(*args, **kwargs)
        hidden = model.base_model(*args, use_cache=False, **kwargs).last_hidden_state
        return _head_logprobs(model, hidden.flatten(0, 1)[positions], targets, ends)

    model.forward = forward


def call_reply_head(model: Any, batch: ReplyBatch) -> tuple[Tensor, Tensor]:
    """Log-probs of the reply tokens, and of ending the reply instead, in float32.

    Both are [reply tokens]; the second takes no part in learning. The model, or what wraps it,
    has a reply head.
    """
    made: tuple[Tensor, Tensor] = model(
        **batch.inputs, positions=batch.positions, targets=batch.targets, ends=batch.ends
    )
    return made


def expected_lengths(end_logprobs: Tensor, batch: ReplyBatch) -> Tensor:
    """Tokens until the model would end each reply, could it end at every token of it, [sequences].

    A token is reached where no earlier one ended the reply: the sum of those probabilities.
    """
    going_on = torch.log1p(-end_logprobs.double().exp().clamp(max=1 - 1e-12))
    before = going_on.cumsum(0) - going_on
    starts = batch.lengths.cumsum(0) - batch.lengths
    reached = torch.exp(before - before[starts][batch.owners])
    return sums_by_sequence(reached, batch)


def sums_by_sequence(logprobs: Tensor, batch: ReplyBatch) -> Tensor:
    """Log-prob of each reply: the sum over its tokens, [sequences]."""
    return logprobs.new_zeros(len(batch.lengths)).index_add(0, batch.owners, logprobs)


def logprobs_by_length(
    model: Any, sequences: Sequences, *, tokens: int, device: torch.device
) -> list[float]:
    """Log-prob of each reply given its prompt, under a frozen model that has a reply head.

    Sequences of like length go together, at most `tokens` in a forward pass, padding included.
    """
    lengths = [[len(prompt) + len(reply)] for prompt, reply in sequences]
    shape = Shape(len(sequences), 1, tokens, "bucketed")
    (passes,) = plan_step(range(len(sequences)), lengths, shape).passes
    found = [0.0] * len(sequences)
    for made in passes:
        batch = padded_batch([sequences[row] for row in made.rows]).to(device)
        with torch.inference_mode():
            logprobs, _ = call_reply_head(model, batch)
        sums = sums_by_sequence(logprobs.double(), batch).tolist()
        for row, total in zip(made.rows, sums, strict=True):
            found[row] = total
    return found


def _head_logprobs(
    model: Any, hidden: Tensor, targets: Tensor, ends: Tensor
) -> tuple[Tensor, Tensor]:
    """Slice by slice where the logits would be many; those slices are computed again backward."""
    text_config = model.config.get_text_config()
    head, rescale = model.get_output_embeddings(), _rescaling(text_config)

    def logprobs(part: Tensor, of: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        logits = rescale(head(part)).float()
        found = -cross_entropy(logits, of, reduction="none")
        difference = logits.detach().gather(1, torch.stack([end, of], dim=1)).diff(dim=1)
        return found, found.detach() - difference.squeeze(1)

    size = max(1, LOGITS_AT_ONCE // text_config.vocab_size)
    if len(targets) <= size:
        return logprobs(hidden, targets, ends)
    slices = zip(hidden.split(size), targets.split(size), ends.split(size), strict=True)
    made = [checkpoint(logprobs, *parts, use_reentrant=False) for parts in slices]
    found, ended = zip(*made, strict=True)
    return torch.cat(found), torch.cat(ended)


def _rescaling(config: Any) -> Callable[[Tensor], Tensor]:
    """What some families do to logits: Gemma 2 caps them, Cohere and Granite scale them."""
    cap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0

    def rescale(logits: Tensor) -> Tensor:
        scaled = logits * scale if scale != 1.0 else logits
        return torch.tanh(scaled / cap) * cap if cap else scaled

    return rescale
