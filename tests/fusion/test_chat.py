"""Chat templates, with a real tokenizer of a few dozen words and templates of several kinds."""

from collections.abc import Callable
from typing import Any

import pytest

from fusion.chat import (
    Message,
    check_template,
    fit_messages,
    load_tokenizer,
    merge_system,
    render_conversation,
    render_prompt,
)
from fusion.errors import BadInputError

MakeTokenizer = Callable[..., Any]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + CHATML
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + WITH_BOS
)
DROPS_SYSTEM = CHATML.replace("messages %}", "messages if m.role != 'system' %}")
NO_GENERATION_PROMPT = CHATML.split("{% if add", maxsplit=1)[0]
REWRITES_PROMPT = CHATML + "{% if messages|length > 1 %}<|im_end|>{% endif %}"
CHANGES_PROMPT = "{{ messages|length }}" + CHATML
TWO_BOS = "{{ bos_token }}" + WITH_BOS

ASK: list[Message] = [{"role": "user", "content": "two plus three"}]
SYSTEM: Message = {"role": "system", "content": "be brief"}
REPLY: Message = {"role": "assistant", "content": "five"}


@pytest.fixture(scope="module")
def make_tokenizer() -> MakeTokenizer:
    """A byte-level tokenizer with the given template, and a BOS it may add by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    def make(template: str | None, *, bos: str | None = "<s>", adds_bos: bool = False) -> Any:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {character: index for index, character in enumerate(alphabet)}
        tokenizer = Tokenizer(models.BPE(vocabulary, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<s>", "<|im_start|>", "<|im_end|>"])
        if adds_bos:
            bos_id = tokenizer.token_to_id("<s>")
            tokenizer.post_processor = processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", bos_id)]
            )
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token=bos, eos_token="<|im_end|>"
        )
        fast.chat_template = template
        return fast

    return make


def test_prompt_ends_where_the_answer_begins(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(CHATML)
    text = tokenizer.decode(render_prompt(tokenizer, ASK))
    assert text == "<|im_start|>user\ntwo plus three<|im_end|>\n<|im_start|>assistant\n"


def test_conversation_keeps_the_end_of_the_last_turn(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(CHATML)
    text = tokenizer.decode(render_conversation(tokenizer, [*ASK, REPLY]))
    assert text.endswith("<|im_start|>assistant\nfive<|im_end|>\n")


@pytest.mark.parametrize("template", [CHATML, WITH_BOS])
def test_bos_that_the_tokenizer_adds_is_there_once(
    make_tokenizer: MakeTokenizer, template: str
) -> None:
    tokenizer = make_tokenizer(template, adds_bos=True)
    ids = render_prompt(tokenizer, ASK)
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1


def test_no_bos_where_neither_template_nor_tokenizer_has_one(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = make_tokenizer(CHATML)
    assert tokenizer.bos_token_id not in render_prompt(tokenizer, ASK)
    assert render_prompt(make_tokenizer(CHATML, bos=None), ASK)


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_system_text_opens_the_user_turn_where_the_template_takes_none(
    make_tokenizer: MakeTokenizer, template: str
) -> None:
    tokenizer = make_tokenizer(template)
    merged = [{"role": "user", "content": "be brief\n\ntwo plus three"}]
    assert merge_system([SYSTEM, *ASK]) == merged
    assert render_prompt(tokenizer, [SYSTEM, *ASK]) == render_prompt(tokenizer, merged)


@pytest.mark.parametrize(
    ("template", "roles"),
    [(WITH_BOS, ["system", "user"]), (NO_SYSTEM, ["user"]), (DROPS_SYSTEM, ["user"])],
)
def test_messages_are_fitted_to_a_template_without_system_turns(
    make_tokenizer: MakeTokenizer, template: str, roles: list[str]
) -> None:
    fitted = fit_messages(make_tokenizer(template), [SYSTEM, *ASK])
    assert [turn["role"] for turn in fitted] == roles
    assert fit_messages(make_tokenizer(template), ASK) == ASK


def test_system_turn_stays_where_the_template_takes_it(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(CHATML)
    text = tokenizer.decode(render_prompt(tokenizer, [SYSTEM, *ASK]))
    assert text.startswith("<|im_start|>system\nbe brief<|im_end|>")


@pytest.mark.parametrize("template", [CHATML, WITH_BOS, NO_SYSTEM])
def test_usual_templates_pass_for_every_use(make_tokenizer: MakeTokenizer, template: str) -> None:
    for use in ("sample", "train", "score"):
        check_template(make_tokenizer(template), "model", use)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("template", "uses", "sentence"),
    [
        (NO_GENERATION_PROMPT, ("sample", "train"), "no generation prompt"),
        (CHANGES_PROMPT, ("train",), "differently from the prompt alone"),
        (TWO_BOS, ("sample", "train", "score"), "2 times"),
        ("{{ raise_exception('no') }}", ("sample", "train", "score"), "failed on roles user"),
        (None, ("sample", "train", "score"), "has no chat template"),
    ],
)
def test_unfit_template_is_refused_only_for_what_it_cannot_do(
    make_tokenizer: MakeTokenizer, template: str | None, uses: tuple[str, ...], sentence: str
) -> None:
    tokenizer = make_tokenizer(template)
    for use in ("sample", "train", "score"):
        if use in uses:
            with pytest.raises(BadInputError, match=sentence):
                check_template(tokenizer, "model", use)  # type: ignore[arg-type]
        else:
            check_template(tokenizer, "model", use)  # type: ignore[arg-type]


def test_template_whose_marks_the_tokenizer_does_not_know_is_refused() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "What", "is", "two", "plus", "three", "Two", "five", "?", ".", "user"]
    known = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    fast.chat_template = CHATML
    with pytest.raises(BadInputError, match="tokenizer cannot give back"):
        check_template(fast, "model", "sample")


def test_text_after_the_reply_is_no_hindrance(make_tokenizer: MakeTokenizer) -> None:
    check_template(make_tokenizer(REWRITES_PROMPT), "model", "train")


def test_tokenizer_loads_from_its_folder(make_tokenizer: MakeTokenizer, tmp_path: Any) -> None:
    make_tokenizer(CHATML).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), "ignored for a folder")
    assert render_prompt(tokenizer, ASK) == render_prompt(make_tokenizer(CHATML), ASK)


def test_folder_without_a_tokenizer_is_one_sentence(tmp_path: Any) -> None:
    with pytest.raises(BadInputError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path))
