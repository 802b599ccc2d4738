"""The rows of the sft and preferences tables, in the order of data set and prompt id."""

import polars as pl

from fusion.records import PREFERENCES, SFT


def sft_rows(uses: pl.DataFrame, best: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    """One conversation a prompt: its messages and the best answer."""
    picked = uses.filter("in_sft").join(best, on="prompt")
    rows = picked.join(texts, on="response_id").sort("prompt")
    return rows.with_columns(messages=pl.concat_list("messages", _assistant_turn("text"))).select(
        SFT.names
    )


def preference_rows(uses: pl.DataFrame, pairs: pl.DataFrame, texts: pl.DataFrame) -> pl.DataFrame:
    """One pair a prompt, in TRL's conversational format with the prompt by itself."""
    kept = pairs.filter(pl.col("dropped_by").is_null())
    picked = uses.filter("in_preferences").join(kept, on="prompt")
    for role in ("chosen", "rejected"):
        named = texts.select(pl.col("response_id"), pl.col("text").alias(f"{role}_text"))
        picked = picked.join(named, left_on=f"{role}_response_id", right_on="response_id")
    return (
        picked.sort("prompt")
        .with_columns(
            prompt=pl.col("messages"),
            chosen=pl.concat_list(_assistant_turn("chosen_text")),
            rejected=pl.concat_list(_assistant_turn("rejected_text")),
        )
        .select(PREFERENCES.names)
    )


def _assistant_turn(text: str) -> pl.Expr:
    return pl.struct(pl.lit("assistant").alias("role"), pl.col(text).alias("content"))
