"""Any sequence classifier with one output: its raw logit is the reward."""

from collections.abc import Sequence
from typing import Any

import torch

from fusion.errors import BadInputError
from fusion.recipe import Reward
from fusion.rewards.scorer import Scored, pad_rows, pad_token


class ClassifierScorer:
    """`AutoModelForSequenceClassification` with num_labels 1."""

    def __init__(self, reward: Reward, tokenizer: Any, device: torch.device) -> None:
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(
            reward.model, revision=reward.revision, dtype=getattr(torch, reward.dtype)
        )
        if model.config.num_labels != 1:
            raise BadInputError(
                f"The reward model {reward.model} has {model.config.num_labels} outputs; "
                "give one with a single output (num_labels 1)."
            )
        # the model reads the last token that is no padding, which it knows by this id
        self._pad_id = model.config.pad_token_id = pad_token(reward, model.config, tokenizer)
        self._device = device
        self._model = model.eval().to(device)

    def score(self, rows: Sequence[Sequence[int]]) -> list[Scored]:
        """One raw logit a row."""
        ids, mask = pad_rows(rows, self._pad_id, self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=mask).logits
        return [Scored(value, None) for value in logits[:, 0].float().tolist()]
