"""Chat templates: conversations to token ids, and checks of a template before any GPU time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fusion.errors import BadInputError, one_line

Message = dict[str, str]
Use = Literal["sample", "train", "score"]

_PROBE: list[Message] = [{"role": "user", "content": "What is two plus three?"}]
_REPLY: Message = {"role": "assistant", "content": "Two plus three is five."}


def load_tokenizer(model: str, revision: str | None = None) -> Any:
    """The tokenizer of a model, by local folder or hub id; a local folder never asks the hub.

    Raises:
        BadInputError: it cannot be loaded.
    """
    from transformers import AutoTokenizer  # takes seconds; a recipe is read without it

    is_local = Path(model).is_dir()
    try:
        return AutoTokenizer.from_pretrained(
            model, revision=None if is_local else revision, local_files_only=is_local
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BadInputError(
            f"The tokenizer of {model} cannot be loaded ({one_line(error)}); give a model whose "
            "folder holds tokenizer.json and tokenizer_config.json."
        ) from None


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a prompt, ending where the model's answer begins.

    A beginning-of-sequence token that the tokenizer puts before plain text is there exactly once,
    whether or not the template writes it. Where a template does not take system turns, the system
    text opens the first user turn.

    Raises:
        BadInputError: the template fails on these messages.
    """
    return _token_ids(tokenizer, render_text(tokenizer, messages, add_generation_prompt=True))


def render_conversation(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a whole conversation, the last answer's end-of-turn token kept.

    BOS and system turns are treated as in `render_prompt`.

    Raises:
        BadInputError: the template fails on these messages.
    """
    return _token_ids(tokenizer, render_text(tokenizer, messages, add_generation_prompt=False))


def render_text(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    """The template's text of a conversation, a system turn merged where the template has none.

    Raises:
        BadInputError: the template fails on these messages.
    """
    turns = list(messages)
    if turns and turns[0]["role"] == "system":
        if text := _with_system(tokenizer, turns, add_generation_prompt):
            return text
        turns = merge_system(turns)
    return _apply(tokenizer, turns, add_generation_prompt)


def merge_system(messages: Sequence[Message]) -> list[Message]:
    """The same conversation without a system turn: its text opens the first user turn."""
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def fit_messages(tokenizer: Any, messages: Sequence[Message]) -> list[Message]:
    """The same prompt as the template takes it: a system turn merged where the template has none.

    Raises:
        BadInputError: the template fails on these messages.
    """
    turns = list(messages)
    if turns[0]["role"] != "system" or _with_system(tokenizer, turns, add_generation_prompt=True):
        return turns
    return merge_system(turns)


def check_template(tokenizer: Any, model: str, use: Use) -> None:
    """See that a model's chat template can do what it is needed for.

    For all: it renders, and BOS is there at most once. To sample and train: it has a generation
    prompt, and its text survives the tokenizer, so that the engine receives what the template
    says. To train: a prompt with its reply starts with the prompt, so that loss and log-probs of
    the reply can be told from those of the prompt. To score: the reply is in the text.

    Raises:
        BadInputError: it cannot, and why.
    """
    prompt = render_text(tokenizer, _PROBE, add_generation_prompt=False)
    opened = render_text(tokenizer, _PROBE, add_generation_prompt=True)
    whole = render_text(tokenizer, [*_PROBE, _REPLY], add_generation_prompt=False)
    if use != "score" and not _opens_reply(prompt, opened, whole):
        raise _unfit(model, "has no generation prompt; it must use add_generation_prompt")
    if use != "score" and (lost := _lost_in_tokens(tokenizer, opened)):
        raise _unfit(model, f"writes {lost!r}, which its tokenizer cannot give back")
    if use == "train" and not _is_prefix(tokenizer, opened, whole):
        raise _unfit(
            model,
            "renders a prompt with its reply differently from the prompt alone; it must only "
            "append the reply",
        )
    if _REPLY["content"] not in whole:
        raise _unfit(model, "leaves out the assistant's reply")
    num_bos = _token_ids(tokenizer, opened).count(tokenizer.bos_token_id)
    if tokenizer.bos_token_id is not None and num_bos > 1:
        raise _unfit(
            model, f"writes the token {tokenizer.bos_token} {num_bos} times; once is right"
        )


def _opens_reply(prompt: str, opened: str, whole: str) -> bool:
    """Whether a prompt ends where a reply begins.

    Most templates append a header for the reply; Mistral's need none, their user turn's closing
    mark is followed by the reply itself.
    """
    if opened != prompt:
        return opened.startswith(prompt)
    return whole.startswith(opened) and whole[len(opened) :].lstrip().startswith(_REPLY["content"])


def _lost_in_tokens(tokenizer: Any, text: str) -> str:
    """The first piece of a text that is not there after encoding and decoding, '' if all is.

    White space is left aside: some tokenizers put one before a word, or take it from the start.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    back = "".join(tokenizer.decode(ids, skip_special_tokens=False).split())
    return next((piece for piece in text.split() if piece not in back), "")


def _with_system(tokenizer: Any, turns: list[Message], add_generation_prompt: bool) -> str | None:
    """The text with its system turn, None where the template refuses or drops that turn."""
    try:
        text = _apply(tokenizer, turns, add_generation_prompt)
    except BadInputError:
        return None
    return text if turns[0]["content"].strip() in text else None


def _apply(tokenizer: Any, turns: list[Message], add_generation_prompt: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except Exception as error:  # a template is a program of the model's author
        if getattr(tokenizer, "chat_template", "one of its own") is None:
            raise BadInputError(
                f"The tokenizer of {tokenizer.name_or_path} has no chat template; save one beside "
                "it, as chat_template.jinja."
            ) from None
        raise BadInputError(
            f"The chat template of {tokenizer.name_or_path} failed on roles "
            f"{', '.join(turn['role'] for turn in turns)} ({type(error).__name__}: "
            f"{one_line(error)}); give a tokenizer with a template for them."
        ) from None
    return text


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is None or bos in ids[:1]:
        return ids
    adds_bos = tokenizer("")["input_ids"][:1] == [bos]
    return [bos, *ids] if adds_bos else ids


def _is_prefix(tokenizer: Any, prompt: str, whole: str) -> bool:
    prompt_ids, whole_ids = _token_ids(tokenizer, prompt), _token_ids(tokenizer, whole)
    return whole.startswith(prompt) and whole_ids[: len(prompt_ids)] == prompt_ids


def _unfit(model: str, why: str) -> BadInputError:
    return BadInputError(f"The chat template of {model} {why}.")
