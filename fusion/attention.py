"""Attention over sequences laid end to end in one row: each is attended to by itself, and a prompt
that several replies continue is computed once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from fusion.errors import BadInputError

BY_SPAN = "crucible_by_span"
# What `layer_types` of a model may name; others mix tokens where no attention keeps them apart.
_KINDS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Span:
    """A prompt that starts at a place of the row, and the lengths of the replies that follow it.

    Every reply continues the prompt and sees none of the others.
    """

    start: int
    prompt: int
    replies: tuple[int, ...]

    def replies_at(self) -> Iterator[slice]:
        """Where each reply lies."""
        at = self.start + self.prompt
        for length in self.replies:
            yield slice(at, at + length)
            at += length


def separates_sequences(model: Any) -> bool:
    """Whether tokens of this transformers model meet in attention alone, of a kind known here."""
    config = model.config.get_text_config()
    known = model._supports_sdpa or getattr(config, "attn_logit_softcapping", None) is not None
    return (
        known
        and model._supports_attention_backend
        and not getattr(model, "_is_stateful", False)
        and set(getattr(config, "layer_types", None) or _KINDS) <= _KINDS
    )


def attend_by_span(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    spans: Sequence[Span] | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers; a model hands `spans` on to it.

    Shapes: query [1, heads, tokens, size], key and value [1, key heads, tokens, size]; the result
    [1, tokens, heads, size]. Spans cover the row from its start to its end.

    Raises:
        BadInputError: the model does not hand `spans` on.
    """
    if spans is None:
        raise BadInputError(
            f"{type(module).__name__} does not tell its attention where sequences start, so rows "
            "cannot be laid end to end; set batching to bucketed."
        )
    how = _How(sliding_window, softcap, scaling, dropout)
    made = [out for span in spans for out in _attend_in_span(query, key, value, span, how)]
    return torch.cat(made, dim=2).transpose(1, 2), None


AttentionInterface.register(BY_SPAN, attend_by_span)


@dataclass(frozen=True)
class _How:
    window: int | None
    softcap: float | None
    scaling: float | None
    dropout: float


def _attend_in_span(
    query: Tensor, key: Tensor, value: Tensor, span: Span, how: _How
) -> Iterator[Tensor]:
    """The prompt with its first reply, then every other reply behind the same prompt."""
    prompt = slice(span.start, span.start + span.prompt)
    for number, reply in enumerate(span.replies_at()):
        if number == 0:
            whole = slice(prompt.start, reply.stop)
            yield _attend(query[:, :, whole], key[:, :, whole], value[:, :, whole], how)
        else:
            keys = torch.cat([key[:, :, prompt], key[:, :, reply]], dim=2)
            values = torch.cat([value[:, :, prompt], value[:, :, reply]], dim=2)
            yield _attend(query[:, :, reply], keys, values, how)


def _attend(query: Tensor, key: Tensor, value: Tensor, how: _How) -> Tensor:
    """Causal attention of the last tokens of a sequence to all of it."""
    size, total = query.shape[2], key.shape[2]
    is_plain = size == total and not (how.window and how.window < total)
    if is_plain and how.softcap is None:
        return scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=how.dropout,
            is_causal=True,
            scale=how.scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
    mask = _visible(size, total, how.window, query.device)
    # with a mask, a GPU's fast kernels want a key head for each query head
    times = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(times, dim=1) for each in (key, value))
    if how.softcap is not None:
        return _attend_capped(query, key, value, mask, how)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=how.dropout, scale=how.scaling
    )


def _attend_capped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, how: _How) -> Tensor:
    """What PyTorch's own lacks: scores of at most `softcap`, as Gemma 2 has them."""
    assert how.softcap is not None
    scaling = query.shape[-1] ** -0.5 if how.scaling is None else how.scaling
    scores = torch.tanh(query @ key.transpose(2, 3) * scaling / how.softcap) * how.softcap
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1, dtype=torch.float32)
    return torch.dropout(weights.to(query.dtype), how.dropout, train=how.dropout > 0) @ value


def _visible(size: int, total: int, window: int | None, device: torch.device) -> Tensor:
    """Which tokens of a sequence its last ones see, [size, total]."""
    places = torch.arange(total, device=device)
    behind = places[total - size :, None] - places
    return (behind >= 0) & (behind < (window or total))
