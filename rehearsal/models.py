"""Tiny models of four architectures, about 0.7M parameters each."""

from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
)

from rehearsal.profiles import Architecture

CONTEXT = 4096
HIDDEN = 128
LAYERS = 3
HEADS = 4
# vLLM's CPU attention takes no smaller heads.
HEAD_SIZE = 32

CONFIGS: dict[Architecture, type[PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "gemma2": Gemma2Config,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
}
CAUSAL_MODELS: dict[Architecture, type[PreTrainedModel]] = {
    "llama": LlamaForCausalLM,
    "gemma2": Gemma2ForCausalLM,
    "mistral": MistralForCausalLM,
    "qwen2": Qwen2ForCausalLM,
}
REWARD_MODELS: dict[Architecture, type[PreTrainedModel]] = {
    "llama": LlamaForSequenceClassification,
    "qwen2": Qwen2ForSequenceClassification,
}
# What an architecture's default would make of so small a model, put right.
PECULIARITIES: dict[Architecture, dict[str, object]] = {
    "llama": {"head_dim": HEAD_SIZE},
    "gemma2": {"head_dim": HEAD_SIZE, "query_pre_attn_scalar": HEAD_SIZE},
    "mistral": {"head_dim": HEAD_SIZE, "sliding_window": None},
    "qwen2": {},
}


def build_config(
    architecture: Architecture, tokenizer: PreTrainedTokenizerFast
) -> PreTrainedConfig:
    """The configuration of a tiny model that fits the tokenizer."""
    return CONFIGS[architecture](
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **PECULIARITIES[architecture],
    )


def build_causal_model(
    architecture: Architecture, tokenizer: PreTrainedTokenizerFast
) -> PreTrainedModel:
    """A language model with random weights."""
    return CAUSAL_MODELS[architecture](build_config(architecture, tokenizer))


def build_reward_model(
    architecture: Architecture, tokenizer: PreTrainedTokenizerFast
) -> PreTrainedModel:
    """A model with random weights that gives a conversation one number."""
    config = build_config(architecture, tokenizer)
    config.num_labels = 1
    return REWARD_MODELS[architecture](config)
