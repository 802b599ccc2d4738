"""The rows of the sft and preferences tables, in the order of data set and prompt id."""

import polars as pl

from fusion.identity import pair_id
from fusion.records import PREFERENCES, SFT


def sft_rows(uses: pl.DataFrame, best: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    """One conversation a prompt: its messages and the best answer."""
    picked = uses.filter("in_sft").join(best, on="prompt")
    rows = picked.join(texts, on="response_id").sort("prompt")
    return rows.with_columns(messages=pl.concat_list("messages", _assistant_turn("text"))).select(
        SFT.names
    )


def preference_rows(uses: pl.DataFrame, pairs: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    """The pairs of each prompt, in TRL's conversational format with the prompt by itself."""
    kept = pairs.filter(pl.col("dropped_by").is_null())
    picked = uses.filter("in_preferences").join(kept, on="prompt")
    for role in ("chosen", "rejected"):
        named = texts.select(pl.col("response_id"), pl.col("text").alias(f"{role}_text"))
        picked = picked.join(named, left_on=f"{role}_response_id", right_on="response_id")
    ranked = picked.sort("prompt", "source")
    return ranked.with_columns(
        _pair_ids(ranked),
        prompt=pl.col("messages"),
        chosen=pl.concat_list(_assistant_turn("chosen_text")),
        rejected=pl.concat_list(_assistant_turn("rejected_text")),
    ).select(PREFERENCES.names)


def _pair_ids(pairs: pl.DataFrame) -> pl.Series:
    answers = pairs.select("chosen_response_id", "rejected_response_id")
    return pl.Series("pair_id", [pair_id(*both) for both in answers.iter_rows()], pl.String)


def _assistant_turn(text: str) -> pl.Expr:
    return pl.struct(pl.lit("assistant").alias("role"), pl.col(text).alias("content"))
