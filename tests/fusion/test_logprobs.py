"""Log-probs of replies against a plain forward pass, one reply at a time."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from fusion.logprobs import (
    add_reply_head,
    call_reply_head,
    expected_lengths,
    packed_batch,
    padded_batch,
    reply_logprobs,
)

TARGET = Path(__file__).parents[2] / "rehearsal" / "models" / "target"


@pytest.fixture(scope="module")
def model():
    model = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32).eval()
    add_reply_head(model)
    return model


def plain_sum(model, prompt, reply):
    with torch.no_grad():
        logits = model(torch.tensor([prompt + reply])).logits[0].double()
    rows = torch.log_softmax(logits, dim=-1)
    return sum(float(rows[len(prompt) - 1 + i, t]) for i, t in enumerate(reply))


@pytest.mark.parametrize("tokens", [1, 12, 1000])
def test_batched_padded_logprobs_equal_those_of_each_reply_alone(model, tokens):
    rows = [([5, 6, 7], [[11, 12]]), ([8], [[13, 14, 15, 16]]), ([9, 10], [[17]])]
    found = reply_logprobs(model, rows, tokens=tokens, device=torch.device("cpu"))
    expected = [plain_sum(model, prompt, reply) for prompt, (reply,) in rows]
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["gemma", "llama", "mistral", "qwen"])
def test_reply_head_agrees_with_the_models_own_in_every_family(family, monkeypatch):
    """Gemma 2 caps its logits; slices of positions make no difference."""
    path = TARGET.parent / family
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    expected = plain_sum(model, [5, 6, 7], [11, 12, 13, 14])
    add_reply_head(model)
    monkeypatch.setattr("fusion.logprobs.LOGITS_AT_ONCE", 3 * model.config.vocab_size)
    device = torch.device("cpu")
    (found,) = reply_logprobs(model, [([5, 6, 7], [[11, 12, 13, 14]])], tokens=9, device=device)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("lay", [padded_batch, packed_batch])
def test_expected_length_sums_the_probabilities_of_reaching_each_token(model, lay):
    rows = [([5, 6, 7], [[11, 12, 2]]), ([8], [[13, 2]])]
    batch = lay(rows)
    with torch.no_grad():
        _, ended = call_reply_head(model, batch)
    found = expected_lengths(ended, batch).tolist()
    for (prompt, (reply,)), length in zip(rows, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + reply])).logits[0].double()
        ends = torch.softmax(logits, dim=-1)[len(prompt) - 1 : -1, reply[-1]].tolist()
        expected, reached = 0.0, 1.0
        for end in ends:
            expected, reached = expected + reached, reached * (1 - end)
        assert length == pytest.approx(expected, abs=1e-5)
