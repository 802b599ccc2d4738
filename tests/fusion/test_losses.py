"""Log-probs of replies against a plain forward pass, one reply at a time."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from fusion.losses import reply_logprobs

TARGET = Path(__file__).parents[2] / "rehearsal" / "models" / "target"


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32).eval()


def test_batched_padded_logprobs_equal_those_of_each_reply_alone(model):
    prompts, replies = [[5, 6, 7], [8], [9, 10]], [[11, 12], [13, 14, 15, 16], [17]]
    device = torch.device("cpu")
    batched = reply_logprobs(model, prompts, replies, device=device)
    for prompt, reply, total in zip(prompts, replies, batched, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + reply])).logits[0].double()
        rows = torch.log_softmax(logits, dim=-1)
        expected = sum(float(rows[len(prompt) - 1 + i, t]) for i, t in enumerate(reply))
        assert total == pytest.approx(expected, abs=1e-4)
