"""The shipped models load without code of ours, and write conversations as training needs them."""

from functools import cache

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from rehearsal.profiles import PROFILES
from rehearsal.train_models import FOLDER, TRUNKS

SHIPPED = [name for name in PROFILES if name not in TRUNKS]
CAUSAL = [name for name in SHIPPED if name != "reward"]
ASKED = [{"role": "user", "content": "Say river stone two times"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "river stone river stone"}]
TEXTS = (
    "Plain English, with  two spaces\tand a tab.\n\nAnother paragraph: 3.14 * 2 = 6.28!",
    "def fold(xs: list[int]) -> int:\n    return sum(x ** 2 for x in xs)  # naïve 😀\n",
    "请用中文回答:罕见的字如龘、鑫也要能写。",
    "العربية, русский, ελληνικά, \u200bzero width",
)


@cache
def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(FOLDER / name)


def test_all_weights_together_stay_below_12_mb() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*/*.safetensors")) < 12e6


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_gives_back_any_text(name: str, text: str) -> None:
    tokenizer = load_tokenizer(name)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("name", SHIPPED)
def test_prompt_is_a_prefix_of_prompt_and_reply(name: str) -> None:
    tokenizer = load_tokenizer(name)
    prompt = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(ANSWERED, return_dict=False)
    assert whole[: len(prompt)] == prompt
    assert tokenizer.eos_token_id in whole[len(prompt) :]


@pytest.mark.parametrize("name", SHIPPED)
def test_template_takes_a_system_turn_and_several_turns(name: str) -> None:
    system = {"role": "system", "content": "Be brief."}
    text = load_tokenizer(name).apply_chat_template([system, *ANSWERED, *ASKED], tokenize=False)
    assert text.count("Be brief.") == 1
    assert text.count(ASKED[0]["content"]) == 2


def test_target_template_marks_the_reply_and_its_end_for_training() -> None:
    tokenizer = load_tokenizer("target")
    rendered = tokenizer.apply_chat_template(
        ANSWERED, return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = zip(rendered["input_ids"], rendered["assistant_masks"], strict=True)
    marked = tokenizer.decode([token for token, is_learnt in pairs if is_learnt])
    assert marked == ANSWERED[-1]["content"] + tokenizer.eos_token


@pytest.mark.parametrize("name", CAUSAL)
def test_language_model_loads_and_ends_its_reply(name: str) -> None:
    tokenizer = load_tokenizer(name)
    model = AutoModelForCausalLM.from_pretrained(FOLDER / name)
    assert model.config.max_position_embeddings == 4096
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    rendered = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_tensors="pt")
    generated = model.generate(**rendered, max_new_tokens=40, do_sample=False)
    assert generated[0, -1].item() in (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_architectures_of_the_sources_differ() -> None:
    sources = ("llama", "gemma", "mistral", "qwen")
    assert (
        len({AutoModelForCausalLM.from_pretrained(FOLDER / n).config.model_type for n in sources})
        == 4
    )


def test_reward_model_prefers_a_right_reply() -> None:
    tokenizer = load_tokenizer("reward")
    model = AutoModelForSequenceClassification.from_pretrained(FOLDER / "reward")
    wrong = [*ASKED, {"role": "assistant", "content": "river stone"}]
    with torch.inference_mode():
        right, other = (
            model(**tokenizer.apply_chat_template(chat, return_tensors="pt")).logits.item()
            for chat in (ANSWERED, wrong)
        )
    assert right > other
