"""Small tokenizers of two families, trained on the text of the exercises.

The byte-level one (Llama, Qwen) and the SentencePiece-like one with byte fallback (Gemma, Mistral)
encode any text; digits and Chinese characters stand alone in both.
"""

import json
from collections.abc import Iterable
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rehearsal.templates import ChatFormat

Family = Literal["byte_level", "merges"]

HAN = pre_tokenizers.Split(Regex(r"[\p{Han}]"), "isolated")
DIGITS = pre_tokenizers.Digits(individual_digits=True)
# Where GPT-2 cuts: words, numbers and signs with the space before them.
PIECES = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def train_byte_level(texts: Iterable[str], size: int, special: list[str]) -> Tokenizer:
    """Byte-level BPE, as in GPT-2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [HAN, DIGITS, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def mark_spaces(tokenizer: Tokenizer) -> None:
    """Writes a space as ▁ at the head of a word, and bytes back as text when decoding."""
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            HAN,
            DIGITS,
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )


def train_merges(texts: Iterable[str], size: int, special: list[str]) -> Tokenizer:
    """BPE over characters with byte fallback, as Gemma and Mistral have it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    mark_spaces(tokenizer)
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(BYTES), special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary |= {token: len(vocabulary) + i for i, token in enumerate(BYTES)}
    return Tokenizer.from_str(json.dumps(state))


TRAINERS = {
    "byte_level": train_byte_level,
    "merges": train_merges,
}


def begin_with_bos(tokenizer: Tokenizer, bos: str) -> None:
    """Raw text (not a rendered chat) is encoded with a bos in front."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )


def train_tokenizer(
    family: Family, texts: Iterable[str], size: int, chat: ChatFormat
) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `size` tokens that ends a reply with the template's turn end."""
    tokenizer = TRAINERS[family](texts, size, chat.special_tokens)
    if chat.bos:
        begin_with_bos(tokenizer, chat.bos)
    roles = {"bos_token": chat.bos, "unk_token": "<unk>" if "<unk>" in chat.others else None}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=chat.pad,
        eos_token=chat.turn_end,
        additional_special_tokens=[t for t in chat.others if t != "<unk>"],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        **{role: token for role, token in roles.items() if token},
    )
    wrapped.chat_template = chat.template
    return wrapped
