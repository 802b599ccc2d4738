"""Answers that no training of the target takes whole: too long together with their prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from fusion.chat import Message, render_conversation, render_text
from fusion.recipe import Recipe

_REPLY: Message = {"role": "assistant", "content": "?"}


def longest_row(recipe: Recipe) -> int:
    """Tokens of the longest conversation that fine-tuning or preference optimisation takes."""
    return max(recipe.sft.max_length, recipe.dpo.max_length)


@dataclass
class Room:
    """Tells which answers fit a training row of at most `max_length` of the target's tokens.

    A token stands for a byte at least, so most answers are seen to fit by their bytes; the rest
    are rendered and counted as training does it.
    """

    tokenizer: Any
    max_length: int
    _template_bytes: dict[tuple[str, ...], int] = field(default_factory=dict)

    def too_long(self, answers: pl.DataFrame, prompts: pl.DataFrame) -> pl.Series:
        """Whether each answer is too long; frames with prompt_id and text, prompt_id and messages.

        Raises:
            BadInputError: the template fails on a conversation.
        """
        sized = prompts.select("prompt_id", "messages", prompt_bytes=self._prompt_bytes(prompts))
        rows = answers.select("prompt_id", "text").join(
            sized, on="prompt_id", how="left", maintain_order="left"
        )
        may_be = rows["text"].str.len_bytes() + rows["prompt_bytes"] > self.max_length
        doubtful = rows.filter(may_be).iter_rows(named=True)
        verdicts = iter([self._exceeds(row["messages"], row["text"]) for row in doubtful])
        found = [bool(doubt) and next(verdicts) for doubt in may_be]
        return pl.Series("too_long", found, dtype=pl.Boolean)

    def _prompt_bytes(self, prompts: pl.DataFrame) -> pl.Series:
        """At most so many bytes has a conversation's text besides the answer."""
        turns = prompts["messages"]
        content = turns.list.eval(pl.element().struct.field("content").str.len_bytes()).list.sum()
        roles = turns.list.eval(pl.element().struct.field("role")).to_list()
        return content + pl.Series([self._template(tuple(of)) for of in roles], dtype=pl.Int64)

    def _template(self, roles: tuple[str, ...]) -> int:
        """Bytes that the template puts around turns of these roles and an answer, with BOS."""
        if roles not in self._template_bytes:
            turns = [{"role": role, "content": "?"} for role in roles]
            text = render_text(self.tokenizer, [*turns, _REPLY], add_generation_prompt=False)
            self._template_bytes[roles] = len(text.encode()) + 1
        return self._template_bytes[roles]

    def _exceeds(self, messages: Sequence[Message], answer: str) -> bool:
        reply: Message = {"role": "assistant", "content": answer}
        return len(render_conversation(self.tokenizer, [*messages, reply])) > self.max_length
