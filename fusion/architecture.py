"""The size of a model as its configuration says it; no weights are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fusion.models import configuration, weights_bytes
from fusion.recipe import Engine, ModelSize

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
# Bytes a weight of vLLM's quantisation methods, scales left out.
QUANTISED = {"fp8": 1.0, "awq": 0.5, "awq_marlin": 0.5, "gptq": 0.5, "gptq_marlin": 0.5}
_NORMS_A_LAYER = {"gemma2": 4}


class Heads(NamedTuple):
    """What of a model's attention decides how it may be split and what its KV cache takes."""

    attention: int
    kv: int
    size: int


@dataclass(frozen=True)
class Architecture:
    """What a model's memory and speed follow from."""

    parameters: int
    layers: int
    heads: Heads
    dtype: str
    origin: str
    """config.json, recipe, or published."""
    stored_bytes: int | None = None
    """Bytes of the weights where they lie; None where only their number is known."""
    context: int | None = None
    """The longest sequence that the model was made for."""

    def weights_bytes(self, engine: Engine) -> float:
        """Bytes of the weights in an engine."""
        if engine.quantization in QUANTISED:
            return self.parameters * QUANTISED[engine.quantization]
        if self.stored_bytes is not None and engine.dtype in ("auto", self.dtype):
            return self.stored_bytes
        return self.parameters * self._width(engine)

    def kv_bytes_a_token(self, engine: Engine, *, tensor: int = 1, pipeline: int = 1) -> float:
        """KV cache of one token on each GPU: keys and values of its layers and its KV heads.

        Sliding windows are not taken off: a token counts in every layer.
        """
        heads = max(1, self.heads.kv / tensor)
        return 2 * self.layers / pipeline * heads * self.heads.size * self._width(engine)

    def divides(self, tensor: int, pipeline: int) -> bool:
        """Whether heads and layers can be split so: KV heads are shared out or copied whole."""
        attention, kv, _ = self.heads
        shares = kv % tensor == 0 or tensor % kv == 0
        return attention % tensor == 0 and shares and self.layers % pipeline == 0

    def _width(self, engine: Engine) -> float:
        return BYTES[self.dtype if engine.dtype == "auto" else engine.dtype]


def architecture(model: str, stated: Mapping[str, ModelSize]) -> Architecture | None:
    """A model's size: from the recipe, its own config.json, or the published facts; else None."""
    if model in stated:
        return _of_recipe(stated[model])
    if own := configuration(model):
        return _of_config(own, origin="config.json", stored=weights_bytes(model))
    published = published_configs().get(model)
    return _of_config(published, origin="published", stored=None) if published else None


@cache
def published_configs() -> dict[str, dict[str, Any]]:
    """Configurations of the models of the published recipes, by hub id."""
    file = Path(__file__).with_name("published_models.yaml")
    models: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))["models"]
    return models


def count_parameters(config: Mapping[str, Any]) -> int | None:
    """Weights of a decoder with gated MLPs (Llama, Mistral, Qwen 2, Gemma 2); None for another."""
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    if not all(isinstance(config.get(key), int) for key in keys) or _has_experts(config):
        return None
    vocabulary, hidden, inner, layers = (config[key] for key in keys)
    heads = _heads(config)
    of_queries, of_keys = heads.attention * heads.size, heads.kv * heads.size
    attention = 2 * hidden * of_queries + 2 * hidden * of_keys
    if config.get("model_type") == "qwen2":
        attention += of_queries + 2 * of_keys  # the biases of queries, keys and values
    norms = _NORMS_A_LAYER.get(config.get("model_type", ""), 2) * hidden
    whole = layers * (attention + 3 * hidden * inner + norms) + hidden
    tied = config.get("tie_word_embeddings", config.get("model_type") == "gemma2")
    return int(whole + vocabulary * hidden * (1 if tied or _scores(config) else 2))


def _of_recipe(size: ModelSize) -> Architecture:
    heads = Heads(size.attention_heads, size.kv_heads, size.head_size)
    parameters = round(size.parameters_b * 1e9)
    return Architecture(parameters, size.layers, heads, "bfloat16", origin="recipe")


def _of_config(
    config: Mapping[str, Any], *, origin: str, stored: int | None
) -> Architecture | None:
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    dtype = dtype if dtype in BYTES else "float32"
    parameters = count_parameters(config)
    if parameters is None and stored is not None:
        parameters = round(stored / BYTES[dtype])
    if parameters is None or not isinstance(config.get("num_attention_heads"), int):
        return None
    layers = config["num_hidden_layers"]
    context = config.get("max_position_embeddings")
    return Architecture(parameters, layers, _heads(config), dtype, origin, stored, context)


def _heads(config: Mapping[str, Any]) -> Heads:
    attention = config["num_attention_heads"]
    kv = config.get("num_key_value_heads") or attention
    size = config.get("head_dim") or config["hidden_size"] // attention
    return Heads(attention, kv, size)


def _scores(config: Mapping[str, Any]) -> bool:
    """A reward model has a few outputs in place of the vocabulary's."""
    names = str(config.get("architectures"))
    return "SequenceClassification" in names or "RewardModel" in names


def _has_experts(config: Mapping[str, Any]) -> bool:
    return any("expert" in key for key in config)
