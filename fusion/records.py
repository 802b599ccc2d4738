"""The tables: one explicit Arrow schema each. The only place that names columns.

Every row has an identity made of content (`fusion.identity`); no row is joined by its position.
"""

from dataclasses import dataclass

import pyarrow as pa

MESSAGE = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
    ]
)
MESSAGES = pa.list_(MESSAGE)


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


PROMPTS = pa.schema(
    [
        _required("prompt_id", pa.string()),
        _required("dedupe_key", pa.string()),
        _required("dataset", pa.string()),
        _required("domain", pa.string()),
        _required("split", pa.string()),
        _required("language", pa.string()),
        _required("messages", MESSAGES),
        pa.field("verifier", pa.string()),
        pa.field("gold", pa.string()),
        pa.field("tests", pa.string()),
        pa.field("entry_point", pa.string()),
        _required("origin", pa.string()),
    ]
)

RESPONSES = pa.schema(
    [
        _required("response_id", pa.string()),
        _required("prompt_id", pa.string()),
        _required("source", pa.string()),
        _required("source_key", pa.string()),
        _required("sample_index", pa.int32()),
        _required("text", pa.string()),
        _required("finish_reason", pa.string()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("completion_tokens", pa.int32()),
        pa.field("cumulative_logprob", pa.float64()),
        pa.field("seed", pa.int64()),
    ]
)

SCORES = pa.schema(
    [
        _required("score_id", pa.string()),
        _required("response_id", pa.string()),
        _required("scorer", pa.string()),
        _required("scorer_key", pa.string()),
        pa.field("reward", pa.float64()),
        pa.field("heads", pa.list_(pa.float64())),
        pa.field("verdict", pa.string()),
        pa.field("reason", pa.string()),
    ]
)

REFERENCE = pa.schema(
    [
        _required("reply_id", pa.string()),
        _required("logprob_sum", pa.float64()),
        _required("num_tokens", pa.int32()),
    ]
)

QUARANTINE = pa.schema(
    [
        _required("stage", pa.string()),
        _required("id", pa.string()),
        _required("reason", pa.string()),
        _required("detail", pa.string()),
        _required("attempts", pa.int32()),
    ]
)

SFT = pa.schema(
    [
        _required("prompt_id", pa.string()),
        _required("dataset", pa.string()),
        _required("domain", pa.string()),
        _required("source", pa.string()),
        _required("messages", MESSAGES),
        pa.field("reward", pa.float64()),
    ]
)

PREFERENCES = pa.schema(
    [
        _required("pair_id", pa.string()),
        _required("prompt_id", pa.string()),
        _required("dataset", pa.string()),
        _required("domain", pa.string()),
        _required("source", pa.string()),
        _required("rejected_source", pa.string()),
        _required("prompt", MESSAGES),
        _required("chosen", MESSAGES),
        _required("rejected", MESSAGES),
        pa.field("chosen_reward", pa.float64()),
        pa.field("rejected_reward", pa.float64()),
        pa.field("margin", pa.float64()),
    ]
)

RESULTS = pa.schema(
    [
        _required("response_id", pa.string()),
        _required("model", pa.string()),
        _required("prompt_id", pa.string()),
        _required("dataset", pa.string()),
        _required("domain", pa.string()),
        _required("text", pa.string()),
        _required("finish_reason", pa.string()),
        pa.field("completion_tokens", pa.int32()),
        pa.field("reward", pa.float64()),
        pa.field("verdict", pa.string()),
        pa.field("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class TableKind:
    """A table's schema and the column that identifies its rows."""

    schema: pa.Schema
    id_column: str


TABLES = {
    "prompts": TableKind(PROMPTS, "prompt_id"),
    "responses": TableKind(RESPONSES, "response_id"),
    "scores": TableKind(SCORES, "score_id"),
    "reference": TableKind(REFERENCE, "reply_id"),
    "quarantine": TableKind(QUARANTINE, "id"),
    "sft": TableKind(SFT, "prompt_id"),
    "preferences": TableKind(PREFERENCES, "pair_id"),
    "results": TableKind(RESULTS, "response_id"),
}
