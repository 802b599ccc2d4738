"""Conversations to token rows for training: what is learned, what is not, what is too long.

The reply begins where prompt and whole conversation part ways, so the loss starts after the
generation prompt and includes the end-of-turn token once.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from fusion.chat import Message, render_conversation, render_prompt
from fusion.identity import content_hash

TooLong = Literal["drop", "cut"]

SFT_ROWS = pa.schema([("prompt_ids", pa.list_(pa.int32())), ("reply_ids", pa.list_(pa.int32()))])
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
    """Rows ready for training, the rows dropped by rule, and how many lost the end of a reply."""

    rows: pa.Table
    entered: int
    dropped: dict[str, int]
    cut: int


def sft_rows(
    tokenizer: Any,
    conversations: Iterable[Sequence[Message]],
    *,
    max_length: int,
    too_long: TooLong = "drop",
) -> TokenRows:
    """Token rows of which the last reply alone is learned."""
    made = _Made(SFT_ROWS)
    for messages in conversations:
        prompt, reply = split_reply(tokenizer, messages[:-1], messages[-1])
        fitted = made.fit(prompt, [reply], max_length, too_long)
        if fitted:
            made.add({"prompt_ids": prompt, "reply_ids": fitted[0]})
    return made.token_rows()


def pair_rows(
    tokenizer: Any,
    pairs: Iterable[dict[str, list[Message]]],
    *,
    max_length: int,
    reference: str,
    too_long: TooLong = "drop",
) -> TokenRows:
    """Token rows of preference pairs whose replies differ.

    `reference` is the key of the frozen model whose log-probs the reply ids stand for.
    """
    made = _Made(PAIR_ROWS)
    for pair in pairs:
        sides = [split_reply(tokenizer, pair["prompt"], pair[s][0]) for s in ("chosen", "rejected")]
        start = min(len(prompt) for prompt, _ in sides)
        whole = [[*prompt, *reply] for prompt, reply in sides]
        prompt, replies = whole[0][:start], [tokens[start:] for tokens in whole]
        fitted = made.fit(prompt, replies, max_length, too_long)
        if fitted:
            chosen, rejected = fitted
            made.add(
                {
                    "prompt_ids": prompt,
                    "chosen_ids": chosen,
                    "rejected_ids": rejected,
                    "chosen_reply_id": reply_id(reference, prompt, chosen),
                    "rejected_reply_id": reply_id(reference, prompt, rejected),
                }
            )
    return made.token_rows()


def hold_out(made: TokenRows, share: float, *, seed: int) -> tuple[TokenRows, pa.Table]:
    """Rows to train on, and a share kept back to judge by; it counts as dropped by `kept_back`."""
    total = made.rows.num_rows
    kept_back = set(random.Random(f"{seed}/held-out").sample(range(total), int(share * total)))
    if not kept_back:
        return made, made.rows.slice(0, 0)
    rest = [row for row in range(total) if row not in kept_back]
    dropped = {**made.dropped, "kept_back": len(kept_back)}
    trained = TokenRows(made.rows.take(rest), made.entered, dropped, made.cut)
    return trained, made.rows.take(sorted(kept_back))


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


class _Made:
    """Rows as they are made, and how many were dropped or cut by which rule."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._entered = 0
        self._cut = 0
        self._dropped: Counter[str] = Counter()

    def fit(
        self, prompt: Sequence[int], replies: list[list[int]], max_length: int, too_long: TooLong
    ) -> list[list[int]] | None:
        """The replies of a row that enters, each within `max_length`; None where it is dropped."""
        self._entered += 1
        room = max_length - len(prompt)
        fitted = [reply[: max(0, room)] for reply in replies]
        if fitted != replies and (too_long == "drop" or room < 1):
            self._dropped["too_long"] += 1
            return None
        if len(fitted) == 2 and fitted[0] == fitted[1]:
            self._dropped["same_text"] += 1
            return None
        self._cut += fitted != replies
        return fitted

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)

    def token_rows(self) -> TokenRows:
        table = pa.Table.from_pylist(self._rows, schema=self._schema)
        return TokenRows(table, self._entered, dict(self._dropped), self._cut)
