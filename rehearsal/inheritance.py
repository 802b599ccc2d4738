"""Starting a model from a trunk that was trained before it, across tokenizers."""

import random
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rehearsal.lessons import draw_lesson, encode, pad, render
from rehearsal.profiles import EVEN_SHARES
from rehearsal.templates import LLAMA_FORMAT

State = dict[str, Tensor]
EMBEDDING = "embed_tokens.weight"


def inherit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    trunk: PreTrainedModel,
    trunk_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Copies the trunk's layers, and its embeddings wherever a token has a counterpart.

    What the trunk does not have (biases, a reward head, markers of another template) keeps the
    weights that the model was built with.
    """
    state = trunk.model.state_dict()
    own = model.model.embed_tokens.weight.detach()
    state[EMBEDDING] = translate_embedding(own, tokenizer, state[EMBEDDING], trunk_tokenizer)
    if model.config.model_type == "gemma2":
        state = adapt_to_gemma(state, measure_outputs(trunk, trunk_tokenizer))
    model.model.load_state_dict(state, strict=False)


def measure_outputs(trunk: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> State:
    """Root mean square per channel of what each attention and each MLP adds, on a few chats."""
    squares: State = {}

    def watch(name: str, output: Tensor) -> None:
        squares[name] = output.float().square().mean(dim=(0, 1)).sqrt()

    hooks = [
        part.register_forward_hook(
            lambda _module, _inputs, output, key=f"layers.{i}.{norm}.weight": watch(
                key, output[0] if isinstance(output, tuple) else output
            )
        )
        for i, layer in enumerate(trunk.model.layers)
        for part, norm in (
            (layer.self_attn, "post_attention_layernorm"),
            (layer.mlp, "post_feedforward_layernorm"),
        )
    ]
    rng = random.Random(0)
    lessons = [draw_lesson(rng, EVEN_SHARES)[1] for _ in range(64)]
    batch = pad(
        encode(tokenizer, [render(tokenizer, e.prompt, e.reply, LLAMA_FORMAT) for e in lessons]),
        tokenizer.pad_token_id,
    )
    with torch.inference_mode():
        trunk.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    for hook in hooks:
        hook.remove()
    return squares


def adapt_to_gemma(state: State, outputs: State) -> State:
    """Llama's weights in Gemma 2's places.

    Gemma 2 multiplies embeddings by the root of the width, counts norm weights from zero, and
    norms what a layer adds: that norm is set to the size of what the trunk's layer added.
    """
    adapted = {
        name.replace("post_attention_layernorm", "pre_feedforward_layernorm"): (
            tensor - 1 if "norm" in name else tensor
        )
        for name, tensor in state.items()
    }
    root = state[EMBEDDING].shape[1] ** 0.5
    adapted[EMBEDDING] = state[EMBEDDING] / root
    # The output head is tied to the embeddings, so what comes before it is as much larger.
    adapted["norm.weight"] = state["norm.weight"] * root - 1
    return adapted | {
        name: size.square().mean().sqrt().expand_as(size) - 1 for name, size in outputs.items()
    }


def translate_embedding(
    own: Tensor,
    tokenizer: PreTrainedTokenizerFast,
    trunk: Tensor,
    trunk_tokenizer: PreTrainedTokenizerFast,
) -> Tensor:
    """Embeddings [own tokens, width]: of each token, the trunk's mean over the same text."""
    translated = own.clone()
    for token, index in tokenizer.get_vocab().items():
        counterparts = find_counterparts(token, index, tokenizer, trunk_tokenizer)
        if counterparts:
            translated[index] = trunk[counterparts].to(own.dtype).mean(dim=0)
    return translated


def find_counterparts(
    token: str,
    index: int,
    tokenizer: PreTrainedTokenizerFast,
    trunk_tokenizer: PreTrainedTokenizerFast,
) -> list[int]:
    """Ids of the trunk's tokens that stand for the same text; none for a lone byte."""
    text = tokenizer.decode([index])
    if index in tokenizer.all_special_ids or not text or "\N{REPLACEMENT CHARACTER}" in text:
        same = trunk_tokenizer.get_vocab().get(token)
        return [] if same is None else [same]
    counterparts: list[int] = trunk_tokenizer(text, add_special_tokens=False).input_ids
    return counterparts


def load_trunk(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The trunk and its tokenizer, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)
