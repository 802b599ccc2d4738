"""Log-probs of reply tokens under a model: only the positions that predict a reply meet the
language-model head, and never all their logits at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from fusion.attention import BY_SPAN, Span
from fusion.batching import Shape, plan_step

# Logits of one slice of positions, in numbers: 128 MiB in float32.
LOGITS_AT_ONCE = 1 << 25

Tokens = Sequence[int]
# Prompts, each with the replies that continue it: equally many of every prompt.
Rows = Sequence[tuple[Tokens, Sequence[Tokens]]]


@dataclass(frozen=True)
class ReplyBatch:
    """Sequences of prompt and reply as a model takes them.

    First the first replies of all rows, then the second ones, and so on. Shapes: `inputs` holds
    `input_ids` and either `attention_mask` [sequences, width], or `position_ids` [1, tokens] that
    start anew with each prompt and `spans`. `positions`, `targets` and `owners` are [reply
    tokens]: where in the flattened hidden states a token is predicted, the token, and which
    sequence it belongs to. `num_tokens` are those of prompts and replies, a prompt counted with
    each of its replies.
    """

    inputs: dict[str, Any]
    positions: Tensor
    targets: Tensor
    owners: Tensor
    lengths: Tensor
    num_tokens: int

    @property
    def ends(self) -> Tensor:
        """The last token of the reply that each target belongs to, [reply tokens]."""
        return self.targets[self.lengths.cumsum(0) - 1][self.owners]

    @property
    def size(self) -> int:
        """Tokens that the model computes, padding included."""
        ids: Tensor = self.inputs["input_ids"]
        return ids.numel()

    @property
    def num_padding(self) -> int:
        """How many of them are padding."""
        mask = self.inputs.get("attention_mask")
        return 0 if mask is None else self.size - int(mask.sum())

    def to(self, device: torch.device) -> "ReplyBatch":
        """The same on another device."""
        inputs = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        }
        moved = {name: getattr(self, name).to(device) for name in _TENSORS}
        return replace(self, inputs=inputs, **moved)


_TENSORS = ("positions", "targets", "owners", "lengths")


def padded_batch(rows: Rows) -> ReplyBatch:
    """A line a sequence, padded on the right to the longest."""
    sequences = _sequences(rows)
    width = max(len(prompt) + len(reply) for prompt, reply in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    places = []
    for line, (prompt, reply) in enumerate(sequences):
        tokens = torch.tensor([*prompt, *reply], dtype=torch.long)
        ids[line, : len(tokens)] = tokens
        mask[line, : len(tokens)] = 1
        reply_at = line * width + len(prompt)
        places.append((reply_at - 1, reply_at))
    return _reply_batch({"input_ids": ids, "attention_mask": mask}, sequences, places)


def packed_batch(rows: Rows) -> ReplyBatch:
    """All in one line, end to end: every prompt once, its replies behind it."""
    ids: list[int] = []
    positions, spans = [], []
    for prompt, replies in rows:
        spans.append(Span(len(ids), len(prompt), tuple(map(len, replies))))
        ends = [len(prompt) + len(reply) for reply in replies]
        ids += [*prompt, *(token for reply in replies for token in reply)]
        positions += [torch.arange(len(prompt)), *(torch.arange(len(prompt), n) for n in ends)]
    inputs = {
        "input_ids": torch.tensor([ids], dtype=torch.long),
        "position_ids": torch.cat(positions).unsqueeze(0),
        "spans": tuple(spans),
    }
    places = [[(s.start + s.prompt - 1, at.start) for at in s.replies_at()] for s in spans]
    by_side = [place for side in zip(*places, strict=True) for place in side]
    return _reply_batch(inputs, _sequences(rows), by_side)


def _sequences(rows: Rows) -> list[tuple[Tokens, Tokens]]:
    """First replies with their prompts, then second ones."""
    num_replies = len(rows[0][1])
    return [(prompt, replies[side]) for side in range(num_replies) for prompt, replies in rows]


def _reply_batch(
    inputs: dict[str, Any],
    sequences: Sequence[tuple[Tokens, Tokens]],
    places: Sequence[tuple[int, int]],
) -> ReplyBatch:
    """`places` has of each reply the last token of its prompt, and its own first token."""
    positions, owners = [], []
    for owner, ((_, reply), (before, first)) in enumerate(zip(sequences, places, strict=True)):
        positions += [torch.tensor([before]), torch.arange(first, first + len(reply) - 1)]
        owners.append(torch.full((len(reply),), owner))
    return ReplyBatch(
        inputs,
        torch.cat(positions),
        torch.tensor([token for _, reply in sequences for token in reply], dtype=torch.long),
        torch.cat(owners),
        torch.tensor([len(reply) for _, reply in sequences]),
        sum(len(prompt) + len(reply) for prompt, reply in sequences),
    )


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


def reply_logprobs(model: Any, rows: Rows, *, tokens: int, device: torch.device) -> list[float]:
    """Log-prob of each row's one reply, under a frozen model that has a reply head.

    At most `tokens` in a forward pass, padding included; there is none where the model attends by
    span, else rows of like length go together.
    """
    lengths = [[len(prompt) + len(reply)] for prompt, (reply,) in rows]
    is_packed = model.config._attn_implementation == BY_SPAN
    shape = Shape(len(rows), 1, tokens, "packed" if is_packed else "bucketed")
    (passes,) = plan_step(range(len(rows)), lengths, shape).passes
    lay = packed_batch if is_packed else padded_batch
    found = [0.0] * len(rows)
    for made in passes:
        batch = lay([rows[row] for row in made.rows]).to(device)
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
