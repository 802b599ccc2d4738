"""The best answer, and the pair of one source: chosen, rejected, margin, and whose pair it is.

Source: FuseChat-3.0, "Dataset construction"; what it leaves open is an option of the recipe.
"""

import polars as pl

from fusion.recipe import Selection
from fusion.selection.answers import first_rule
from fusion.selection.shuffle import shuffle_keys

# Rewards are sums of rounded numbers: a margin of 0.1 may read 0.09999999999999998.
SLACK = 1e-9

# Where a source's pair for a prompt is lost, in the order of the rules.
PAIR_RULES = (
    "no_usable_answer",
    "pairs_off",
    "source_without_pairs",
    "single_answer",
    "no_correct",
    "no_wrong",
    "same_text",
    "margin_low",
    "margin_high",
    "other_source",
    "split_to_sft",
)
PairRule = pl.Enum(PAIR_RULES)

_GROUP = ["prompt", "source"]
_KEPT = ("response_id", "reward", "stripped_key")


def best_of_sources(answers: pl.DataFrame) -> pl.DataFrame:
    """Each source's best answer to each prompt: highest reward, among the correct ones if judged.

    Ties: the shorter text, then the lower sample index.
    """
    can_win = (pl.col("judge") != "verdict") | (pl.col("verdict") == "correct")
    return _first(answers.filter(can_win), by=("prompt", "source"))


def best_of_prompts(best: pl.DataFrame) -> pl.DataFrame:
    """The best among the sources' best; a last tie goes to the source named first."""
    return _first(best, by=("prompt",))


def same_source_pairs(
    answers: pl.DataFrame, best: pl.DataFrame, prompts: pl.DataFrame, selection: Selection
) -> pl.DataFrame:
    """One row a (prompt, source) that has answers: chosen, rejected, margin and its bounds.

    Rejected is the lowest reward, among the wrong answers if judged by verdict. With
    `rejected: lowest_in_range` it is the lowest whose margin keeps to the bounds, if there is one.
    """
    chosen = best.select(*_GROUP, pl.col(_KEPT).name.prefix("chosen_"))
    losers = possible_losers(answers, chosen)
    lowest = _worst(losers.with_columns(is_far=pl.lit(False)))
    bounds = margin_bounds(lowest, prompts, selection)
    policies = prompts.select("prompt", "prompt_id", "domain", "judge", "makes_pairs")
    policies = policies.join(bounds, on="domain")
    if selection.rejected == "lowest_in_range":
        bounded = losers.join(policies.select("prompt", "low", "high"), on="prompt")
        lowest = _worst(bounded.with_columns(is_far=~_is_in_range()))
    rejected = lowest.select(*_GROUP, "margin", pl.col(_KEPT).name.prefix("rejected_"))
    pairs = answers.group_by(_GROUP).agg(num_usable=pl.col("dropped_by").null_count())
    for side in (chosen, rejected):
        pairs = pairs.join(side, on=_GROUP, how="left")
    return pairs.join(policies, on="prompt").sort(_GROUP)


def possible_losers(answers: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    """The usable answers that may be rejected, with the margin to their source's chosen one."""
    judge = pl.col("judge")
    can_lose = (judge == "reward") | (judge == "verdict") & (pl.col("verdict") == "wrong")
    losers = answers.filter(pl.col("dropped_by").is_null(), can_lose)
    margin = (pl.col("chosen_reward") - pl.col("reward")).alias("margin")
    return losers.join(chosen, on=_GROUP, how="left").with_columns(margin)


def margin_bounds(
    lowest: pl.DataFrame, prompts: pl.DataFrame, selection: Selection
) -> pl.DataFrame:
    """The bounds on the reward by domain: `low` and `high`, null where no margin applies.

    Quantiles are taken over the best-against-worst pairs of two different answers, which may be
    few: they interpolate linearly between two margins.
    """
    margins = lowest.filter(pl.col("response_id") != pl.col("chosen_response_id"))
    margins = margins.join(prompts.select("prompt", "domain"), on="prompt").select(
        "domain", "margin"
    )
    rows = []
    for domain in prompts["domain"].unique().sort():
        band = selection.bounds(domain)
        low, high = (band.low, band.high) if band else (None, None)
        if band and band.unit == "quantile":
            of_domain = margins.filter(pl.col("domain") == domain)["margin"]
            low = of_domain.quantile(band.low, "linear")
            high = of_domain.quantile(band.high, "linear")
        rows.append({"domain": domain, "low": low, "high": high})
    return pl.DataFrame(rows, {"domain": pl.String, "low": pl.Float64, "high": pl.Float64})


def mark_dropped(pairs: pl.DataFrame, selection: Selection, sources: list[str]) -> pl.DataFrame:
    """The pairs with `dropped_by`, the rule at which a pair is lost, null for the prompt's pair."""
    allowed = [sources.index(name) for name in selection.pairs_from or sources]
    is_verdict = pl.col("judge") == "verdict"
    rules = {
        "no_usable_answer": pl.col("num_usable") == 0,
        "pairs_off": ~pl.col("makes_pairs"),
        "source_without_pairs": ~pl.col("source").is_in(allowed),
        "single_answer": pl.col("num_usable") == 1,
        "no_correct": is_verdict & pl.col("chosen_response_id").is_null(),
        "no_wrong": is_verdict & pl.col("rejected_response_id").is_null(),
        "same_text": pl.col("chosen_stripped_key") == pl.col("rejected_stripped_key"),
        "margin_low": is_too_close(),
        "margin_high": is_too_far(),
    }
    marked = pairs.with_columns(first_rule(rules).cast(PairRule))
    winners = winning_sources(marked.filter(pl.col("dropped_by").is_null()), selection, sources)
    return (
        marked.join(winners.select("prompt", winner="source"), on="prompt", how="left")
        .with_columns(pl.coalesce("dropped_by", _lost_to_other_source()))
        .drop("winner")
        .sort(_GROUP)
    )


def is_too_close() -> pl.Expr:
    """The margin is under its lower bound, which itself is inside."""
    return pl.col("margin") < pl.col("low") - SLACK


def is_too_far() -> pl.Expr:
    """The margin is over its upper bound, which itself is inside."""
    return pl.col("margin") > pl.col("high") + SLACK


def winning_sources(valid: pl.DataFrame, selection: Selection, sources: list[str]) -> pl.DataFrame:
    """One valid pair a prompt, by `selection.pair_source`; a last tie: the source named first."""
    if selection.pair_source == "random":
        names = pl.col("source").replace_strict(dict(enumerate(sources)), return_dtype=pl.String)
        ids = valid.select(id=pl.concat_str("prompt_id", names, separator="/"))["id"]
        keyed = valid.with_columns(shuffle_keys(ids, selection.seed))
        ranked = keyed.sort("prompt", "shuffle_key")
    else:
        order = ["chosen_reward", "margin"]
        if selection.pair_source == "max_margin":
            order.reverse()
        descending = [False, True, True, False]
        ranked = valid.sort("prompt", *order, "source", descending=descending, nulls_last=True)
    return ranked.unique("prompt", keep="first", maintain_order=True)


def _lost_to_other_source() -> pl.Expr:
    is_lost = pl.col("source") != pl.col("winner")
    return pl.when(is_lost).then(pl.lit("other_source", dtype=PairRule))


def _is_in_range() -> pl.Expr:
    return ~(is_too_close() | is_too_far()).fill_null(False)


def _first(answers: pl.DataFrame, by: tuple[str, ...]) -> pl.DataFrame:
    keys = ["reward", "tie_length", "tie_index", "source", "sample_index"]
    descending = [False] * len(by) + [True, False, False, False, False]
    ranked = answers.sort(*by, *keys, descending=descending, nulls_last=True)
    return ranked.unique(by, keep="first", maintain_order=True)


def _worst(answers: pl.DataFrame) -> pl.DataFrame:
    keys = ("is_far", "reward", "length", "sample_index")
    ranked = answers.sort(*_GROUP, *keys, nulls_last=True)
    return ranked.unique(_GROUP, keep="first", maintain_order=True)
