"""Which prompts become sft rows and which preference pairs, and why the others become neither."""

from decimal import Decimal

import polars as pl

from fusion.selection.pairs import PAIR_RULES
from fusion.selection.shuffle import shuffle_keys

# Why a prompt becomes no row at all: it has no best answer, or its split asks for a pair and its
# last one was lost at a pair rule.
PROMPT_RULES = (
    "unanswered",
    "identical",
    "no_usable_answer",
    "no_correct_answer",
    *PAIR_RULES[1:],
)
PromptRule = pl.Enum(PROMPT_RULES)


def split(
    prompts: pl.DataFrame, best: pl.DataFrame, pairs: pl.DataFrame, seed: int
) -> pl.DataFrame:
    """The prompts with `in_sft`, `in_preferences` and, where neither holds, `dropped_by`."""
    candidates = pairs.group_by("prompt").agg(
        num_usable=pl.col("num_usable").sum(),
        is_identical=pl.col("is_identical").any(),
        has_pair=pl.col("dropped_by").is_null().any(),
        last_rule=pl.col("dropped_by").max(),
    )
    has_best = best.select("prompt", has_best=pl.lit(True))
    uses = prompts.drop("messages").join(candidates, on="prompt", how="left")
    uses = uses.join(has_best, on="prompt", how="left").with_columns(
        pl.col("has_best", "has_pair").fill_null(False)
    )
    uses = uses.join(share_of_sft(uses, seed), on="prompt", how="left")
    return (
        uses.with_columns(in_sft=goes_to_sft(), in_preferences=goes_to_preferences())
        .with_columns(_dropped_by())
        .sort("prompt")
    )


def share_of_sft(uses: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Of N prompts of a data set to be shared, the floor(sft_share * N) first in hash order.

    Shared are those with a pair, or with `share_of: answered` all with a best answer. It depends
    on the seed and the ids alone, not on the order of the input.
    """
    is_answered = (pl.col("share_of") == "answered") & pl.col("has_best")
    shared = uses.filter(pl.col("split") == "share", pl.col("has_pair") | is_answered)
    keys = shuffle_keys(shared["prompt_id"], seed)
    ranks = shared.with_columns(keys).with_columns(
        rank=pl.col("shuffle_key").rank("ordinal").over("dataset", "domain"),
        num_prompts=pl.len().over("dataset", "domain"),
    )
    quotas = ranks.select("sft_share", "num_prompts").unique()
    quotas = quotas.with_columns(
        quota=pl.Series([_floor_share(*row) for row in quotas.iter_rows()], dtype=pl.Int64)
    )
    ranks = ranks.join(quotas, on=["sft_share", "num_prompts"])
    return ranks.select("prompt", is_in_share=pl.col("rank") <= pl.col("quota"))


def goes_to_sft() -> pl.Expr:
    """Overlap: every best answer; pairs_first: those without a pair; share: the part's."""
    unpaired = ~pl.col("has_pair") & (pl.col("keep_unpaired") | ~pl.col("makes_pairs"))
    by_split = (
        pl.when(pl.col("split") == "overlap")
        .then(True)
        .when(pl.col("split") == "pairs_first")
        .then(~pl.col("has_pair"))
        .otherwise(pl.col("is_in_share").fill_null(False) | unpaired)
    )
    return pl.col("has_best") & by_split


def goes_to_preferences() -> pl.Expr:
    """Every prompt with a pair, less those that the share gives to sft."""
    return pl.col("has_pair") & ~pl.col("is_in_share").fill_null(False)


def lose_pairs_to_sft(pairs: pl.DataFrame, uses: pl.DataFrame) -> pl.DataFrame:
    """The pairs, those of prompts that the split gives to sft marked as dropped by it."""
    paired = uses.filter("in_preferences").select("prompt", is_paired=pl.lit(True))
    lost = pl.when(pl.col("is_paired").is_null()).then(
        pl.lit("split_to_sft", dtype=pl.Enum(PAIR_RULES))
    )
    joined = pairs.join(paired, on="prompt", how="left").with_columns(
        pl.coalesce("dropped_by", lost)
    )
    return joined.drop("is_paired").sort("prompt", "source")


def _floor_share(share: float, count: int) -> int:
    # 0.29 * 100 is 28.999999999999996 in binary; the recipe's decimal is meant.
    return int(Decimal(str(share)) * count)


def _dropped_by() -> pl.Expr:
    rule = (
        pl.when(pl.col("num_usable").is_null())
        .then(pl.lit("unanswered"))
        .when(pl.col("is_identical"))
        .then(pl.lit("identical"))
        .when(pl.col("num_usable") == 0)
        .then(pl.lit("no_usable_answer"))
        .when(~pl.col("has_best"))
        .then(pl.lit("no_correct_answer"))
        .otherwise(pl.col("last_rule").cast(pl.String))
    )
    is_used = pl.col("in_sft") | pl.col("in_preferences")
    return pl.when(~is_used).then(rule).cast(PromptRule).alias("dropped_by")
