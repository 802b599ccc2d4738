"""What a reward model promises, and which class keeps the promise for which kind."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch

from fusion.errors import BadInputError
from fusion.recipe import Reward


class Scored(NamedTuple):
    """The score of one conversation, and its objectives where the model has several."""

    reward: float
    heads: list[float] | None


class Scorer(Protocol):
    """Scores rows of token ids, each a whole conversation."""

    def score(self, rows: Sequence[Sequence[int]]) -> list[Scored]:
        """One score a row, in their order; the rows are one padded batch."""
        ...


def load_scorer(reward: Reward, tokenizer: Any, device: torch.device) -> Scorer:
    """The recipe's reward model, its weights on `device`.

    Raises:
        BadInputError: the model cannot be a reward model of that kind.
    """
    from fusion.rewards.armorm import ArmoScorer
    from fusion.rewards.classifier import ClassifierScorer

    if reward.kind == "armorm":
        return ArmoScorer(reward, tokenizer, device)
    return ClassifierScorer(reward, tokenizer, device)


def pad_token(reward: Reward, config: Any, tokenizer: Any) -> int:
    """The token that fills short rows.

    Raises:
        BadInputError: neither model nor tokenizer names one.
    """
    for token in (config.pad_token_id, tokenizer.pad_token_id):
        if token is not None:
            return int(token)
    raise BadInputError(
        f"The reward model {reward.model} names no pad token; add pad_token to its "
        "tokenizer_config.json."
    )


def pad_rows(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both [rows, longest], filled on the right."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids.to(device), mask.to(device)
