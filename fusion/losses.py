"""Log-probs of replies and the losses over them, each visible with its source."""

from collections.abc import Sequence
from typing import Any

import torch


def reply_logprobs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    *,
    device: torch.device,
) -> list[float]:
    """Sum of log-probs (natural) of each reply's tokens given its prompt, under a frozen model."""
    ids, mask = _pad_right([[*p, *r] for p, r in zip(prompts, replies, strict=True)], device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask).logits
    sums = []
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        start, end = len(prompt), len(prompt) + len(reply)
        logprobs = torch.log_softmax(logits[row, start - 1 : end - 1].float(), dim=-1)
        chosen = logprobs.gather(-1, ids[row, start:end].unsqueeze(-1))
        sums.append(float(chosen.double().sum()))
    return sums


def _pad_right(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[index, : len(row)] = 1
    return ids.to(device), mask.to(device)
