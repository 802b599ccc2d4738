"""Conversations to token rows for training: what is learned, what is not, what is too long.

The reply begins where prompt and whole conversation part ways, so the loss starts after the
generation prompt and includes the end-of-turn token once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fusion.chat import Message, render_conversation, render_prompt
from fusion.identity import content_hash

IGNORED_LABEL = -100

SFT_ROWS = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
PAIR_ROWS = pa.schema(
    [
        ("prompt_ids", pa.list_(pa.int32())),
        ("chosen_ids", pa.list_(pa.int32())),
        ("rejected_ids", pa.list_(pa.int32())),
        ("chosen_reply_id", pa.string()),
        ("rejected_reply_id", pa.string()),
    ]
)


@dataclass(frozen=True)
class TokenRows:
    """Rows ready for training, and the rows dropped by rule."""

    rows: pa.Table
    entered: int
    dropped: dict[str, int]


def sft_rows(
    tokenizer: Any, conversations: Iterable[Sequence[Message]], *, max_length: int
) -> TokenRows:
    """Token rows whose labels cover the last reply alone; longer ones are dropped, never cut."""
    rows, entered = [], 0
    for messages in conversations:
        entered += 1
        prompt, reply = split_reply(tokenizer, messages[:-1], messages[-1])
        if len(prompt) + len(reply) <= max_length:
            labels = [IGNORED_LABEL] * len(prompt) + reply
            rows.append({"input_ids": prompt + reply, "labels": labels})
    return _token_rows(rows, SFT_ROWS, entered)


def pair_rows(
    tokenizer: Any, pairs: Iterable[dict[str, list[Message]]], *, max_length: int, reference: str
) -> TokenRows:
    """Token rows of preference pairs; a pair with a side beyond `max_length` is dropped.

    `reference` is the key of the frozen model whose log-probs the reply ids stand for.
    """
    rows, entered = [], 0
    for pair in pairs:
        entered += 1
        sides = [split_reply(tokenizer, pair["prompt"], pair[s][0]) for s in ("chosen", "rejected")]
        (prompt, chosen), (_, rejected) = sides
        if max(len(p) + len(r) for p, r in sides) <= max_length:
            rows.append(
                {
                    "prompt_ids": prompt,
                    "chosen_ids": chosen,
                    "rejected_ids": rejected,
                    "chosen_reply_id": reply_id(reference, prompt, chosen),
                    "rejected_reply_id": reply_id(reference, prompt, rejected),
                }
            )
    return _token_rows(rows, PAIR_ROWS, entered)


def split_reply(
    tokenizer: Any, prompt: Sequence[Message], reply: Message
) -> tuple[list[int], list[int]]:
    """Token ids of the prompt with its generation prompt, and of the reply to its end of turn."""
    prompt_ids = render_prompt(tokenizer, prompt)
    whole = render_conversation(tokenizer, [*prompt, reply])
    start = _common_prefix(prompt_ids, whole)
    return whole[:start], whole[start:]


def reply_id(reference: str, prompt_ids: Sequence[int], reply_ids: Sequence[int]) -> str:
    """Identity of a reply's log-prob: the frozen model and the exact tokens."""
    return content_hash([reference, list(prompt_ids), list(reply_ids)])


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def _token_rows(rows: list[dict[str, Any]], schema: pa.Schema, entered: int) -> TokenRows:
    too_long = entered - len(rows)
    dropped = {"too_long": too_long} if too_long else {}
    return TokenRows(pa.Table.from_pylist(rows, schema=schema), entered, dropped)
