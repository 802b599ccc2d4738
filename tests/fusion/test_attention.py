"""Sequences end to end against the same ones apart, in every family and kind of attention."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from fusion.attention import BY_SPAN, separates_sequences
from fusion.errors import BadInputError
from fusion.logprobs import (
    add_reply_head,
    call_reply_head,
    packed_batch,
    padded_batch,
    sums_by_sequence,
)

MODELS = Path(__file__).parents[2] / "rehearsal" / "models"
WINDOW = 16


def tokens(count: int, first: int) -> list[int]:
    return [8 + (first + 7 * place) % 200 for place in range(count)]


# Prompts and replies shorter and longer than each other, and than the window.
ROWS = [
    (tokens(prompt, seed), [tokens(length, seed + 3 * length) for length in replies])
    for seed, (prompt, *replies) in enumerate([(5, 9, 3), (1, 1, 40), (60, 2, 1), (17, 30, 31)])
]


def learn(family: str, *, packed: bool):
    """Log-probs of the replies and the gradients of their mean."""
    config = AutoConfig.from_pretrained(MODELS / family)
    if family in ("gemma", "mistral"):
        config.sliding_window = WINDOW
    model = AutoModelForCausalLM.from_pretrained(
        MODELS / family, config=config, dtype=torch.float32
    )
    if packed:
        model.set_attn_implementation(BY_SPAN)
    add_reply_head(model)
    batch = (packed_batch if packed else padded_batch)(ROWS)
    logprobs, ended = call_reply_head(model, batch)
    logprobs.mean().backward()
    gradients = torch.cat([weights.grad.flatten() for weights in model.parameters()])
    return batch, sums_by_sequence(logprobs.detach(), batch), ended, gradients


@pytest.mark.parametrize("family", ["gemma", "llama", "mistral", "qwen"])
def test_end_to_end_equals_apart_in_logprobs_and_gradients(family):
    packed, *found = learn(family, packed=True)
    padded, *expected = learn(family, packed=False)
    assert padded.num_padding > 0 == packed.num_padding
    assert packed.num_tokens == padded.num_tokens > packed.size
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-5)


def test_a_reply_sees_neither_the_other_nor_another_row():
    model = AutoModelForCausalLM.from_pretrained(MODELS / "llama", dtype=torch.float64)
    model.set_attn_implementation(BY_SPAN)
    add_reply_head(model)
    changed = [(prompt, [reply, tokens(len(other), 99)]) for prompt, (reply, other) in ROWS]
    changed[0] = (tokens(len(ROWS[0][0]), 98), [tokens(9, 97), tokens(3, 96)])
    sums = []
    for rows in (ROWS, changed):
        batch = packed_batch(rows)
        sums.append(sums_by_sequence(call_reply_head(model, batch)[0].detach(), batch))
    assert torch.equal(sums[0][1:4], sums[1][1:4])
    assert not torch.isclose(sums[0][4:], sums[1][4:]).any()


def test_a_model_that_is_not_told_where_sequences_start_is_refused():
    model = AutoModelForCausalLM.from_pretrained(MODELS / "llama")
    model.set_attn_implementation(BY_SPAN)
    with pytest.raises(BadInputError, match="set batching to bucketed"):
        model(torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize(
    ("kind", "keys", "separates"),
    [
        ("llama", {}, True),
        ("gemma2", {}, True),
        ("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 2}, True),
        ("bloom", {}, False),
        ("mamba2", {"hidden_size": 32, "num_heads": 4, "head_dim": 16, "n_groups": 1}, False),
        ("gpt_oss", {"num_local_experts": 2, "head_dim": 16}, False),
        ("lfm2", {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2}, False),
    ],
)
def test_only_models_whose_tokens_meet_in_plain_attention_are_packed(kind, keys, separates):
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = AutoConfig.for_model(kind, **{**small, **heads, **keys})
    assert separates_sequences(AutoModelForCausalLM.from_config(config)) == separates
