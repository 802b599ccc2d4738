"""The best answer, and the pair: chosen, rejected, margin, and whose pair it is.

Source: FuseChat-3.0, "Dataset construction"; what it leaves open is an option of the recipe.
"""

import polars as pl

from fusion.recipe import Selection
from fusion.selection.answers import first_rule
from fusion.selection.margin import is_in_range, is_too_close, is_too_far, margin_bounds
from fusion.selection.shuffle import shuffle_keys

# Where a source's pair for a prompt is lost, in the order of the rules.
PAIR_RULES = (
    "no_usable_answer",
    "pairs_off",
    "source_without_pairs",
    "single_answer",
    "no_correct",
    "no_wrong",
    "no_rival",
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

    Ties: the shorter text (unless the recipe passes length over), then the lower sample index.
    """
    can_win = (pl.col("judge") != "verdict") | (pl.col("verdict") == "correct")
    return _first(answers.filter(can_win), by=("prompt", "source"))


def best_of_prompts(best: pl.DataFrame) -> pl.DataFrame:
    """The best among the sources' best; a last tie goes to the source named first."""
    return _first(best, by=("prompt",))


def candidate_pairs(
    answers: pl.DataFrame,
    best: pl.DataFrame,
    prompts: pl.DataFrame,
    selection: Selection,
    allowed: list[int],
) -> pl.DataFrame:
    """One row a (prompt, source) that has answers: chosen, rejected, margin and its bounds.

    Chosen is the source's best answer. Rejected is the lowest reward in `selection.pair_scope`,
    among the wrong answers if judged by verdict. With `rejected: lowest_in_range` it is the lowest
    whose margin keeps to the bounds, if there is one. Outside of its own scope a source is paired
    with the answers of `allowed` sources alone.
    """
    chosen = best.select(*_GROUP, pl.col(_KEPT).name.prefix("chosen_"))
    losers = possible_losers(answers)
    if selection.pair_scope != "same_source":
        losers = losers.filter(pl.col("rejected_source").is_in(allowed))
    lowest = _worst(pair_up(_worst_of_sources(losers), chosen, selection))
    bounds = margin_bounds(lowest, prompts, selection)
    policies = prompts.select("prompt", "prompt_id", "domain", "judge", "makes_pairs")
    policies = policies.join(bounds, on="domain")
    if selection.rejected == "lowest_in_range":
        bounded = pair_up(losers, chosen, selection).join(
            policies.select("prompt", "low", "high", "slack"), on="prompt"
        )
        lowest = _worst(bounded.with_columns(is_far=~is_in_range()))
    rejected = lowest.select(
        *_GROUP, "rejected_source", "margin", pl.col(_KEPT).name.prefix("rejected_")
    )
    pairs = count_usable(answers, selection, allowed)
    for side in (chosen, rejected):
        pairs = pairs.join(side, on=_GROUP, how="left")
    return pairs.join(policies, on="prompt").sort(_GROUP)


def possible_losers(answers: pl.DataFrame) -> pl.DataFrame:
    """The usable answers that may be rejected; `rejected_source` is whose they are."""
    judge = pl.col("judge")
    can_lose = (judge == "reward") | (judge == "verdict") & (pl.col("verdict") == "wrong")
    losers = answers.filter(pl.col("dropped_by").is_null(), can_lose)
    return losers.select(
        "prompt",
        "tie_length",
        "sample_index",
        *_KEPT,
        rejected_source="source",
        is_far=pl.lit(False),
    )


def pair_up(losers: pl.DataFrame, chosen: pl.DataFrame, selection: Selection) -> pl.DataFrame:
    """Every chosen answer beside the losers in its scope, with the margin to each."""
    if selection.pair_scope == "same_source":
        own = chosen.with_columns(rejected_source="source")
        both = losers.join(own, on=["prompt", "rejected_source"])
    else:
        both = losers.join(chosen, on="prompt")
    if selection.pair_scope == "cross_source":
        both = both.filter(pl.col("source") != pl.col("rejected_source"))
    return both.with_columns(margin=pl.col("chosen_reward") - pl.col("reward"))


def count_usable(answers: pl.DataFrame, selection: Selection, allowed: list[int]) -> pl.DataFrame:
    """(prompt, source) with `num_usable` answers, `num_in_scope` that a pair may be made of.

    `is_identical` says that the prompt's answers were dropped for being one text.
    """
    counted = answers.group_by(_GROUP).agg(
        num_usable=pl.col("dropped_by").null_count(),
        is_identical=(pl.col("dropped_by") == "identical").fill_null(False).any(),
    )
    if selection.pair_scope == "same_source":
        return counted.with_columns(num_in_scope="num_usable")
    of_allowed = pl.when(pl.col("source").is_in(allowed)).then("num_usable").otherwise(0)
    return counted.with_columns(num_in_scope=of_allowed.sum().over("prompt"))


def mark_dropped(
    pairs: pl.DataFrame, selection: Selection, sources: list[str], allowed: list[int]
) -> pl.DataFrame:
    """The pairs with `dropped_by`, the rule at which a pair is lost, null for the prompt's pair."""
    is_verdict = pl.col("judge") == "verdict"
    lacks_rejected = pl.col("rejected_response_id").is_null()
    rules = {
        "no_usable_answer": pl.col("num_usable") == 0,
        "pairs_off": ~pl.col("makes_pairs"),
        "source_without_pairs": ~pl.col("source").is_in(allowed),
        "single_answer": pl.col("num_in_scope") < selection.min_answers,
        "no_correct": is_verdict & pl.col("chosen_response_id").is_null(),
        "no_wrong": is_verdict & lacks_rejected,
        "no_rival": lacks_rejected,
        "same_text": is_same_text(selection),
        "margin_low": is_too_close(),
        "margin_high": is_too_far(),
    }
    marked = pairs.with_columns(first_rule(rules).cast(PairRule))
    if selection.pair_source == "all":
        return marked
    winners = winning_sources(marked.filter(pl.col("dropped_by").is_null()), selection, sources)
    return (
        marked.join(winners.select("prompt", winner="source"), on="prompt", how="left")
        .with_columns(pl.coalesce("dropped_by", _lost_to_other_source()))
        .drop("winner")
        .sort(_GROUP)
    )


def is_same_text(selection: Selection) -> pl.Expr:
    """Chosen and rejected are one answer, or alike but for outer white space if that is dropped."""
    is_one_answer = pl.col("chosen_response_id") == pl.col("rejected_response_id")
    is_alike = pl.col("chosen_stripped_key") == pl.col("rejected_stripped_key")
    return is_one_answer | is_alike & pl.lit(selection.drop_same_text)


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


def _first(answers: pl.DataFrame, by: tuple[str, ...]) -> pl.DataFrame:
    keys = ["reward", "tie_length", "tie_index", "source", "sample_index"]
    descending = [False] * len(by) + [True, False, False, False, False]
    ranked = answers.sort(*by, *keys, descending=descending, nulls_last=True)
    return ranked.unique(by, keep="first", maintain_order=True)


def _worst_of_sources(losers: pl.DataFrame) -> pl.DataFrame:
    """The lowest of each source: all that the lowest of any scope can be."""
    return _lowest(losers, ["prompt", "rejected_source"])


def _worst(paired: pl.DataFrame) -> pl.DataFrame:
    return _lowest(paired, _GROUP)


def _lowest(losers: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    keys = ("is_far", "reward", "tie_length", "sample_index", "rejected_source")
    ranked = losers.sort(*by, *keys, nulls_last=True)
    return ranked.unique(by, keep="first", maintain_order=True)
