"""Answers as the rules see them: described without their text, judged, and excluded or not."""

import polars as pl

from fusion.recipe import Recipe, Selection

# vLLM's finish reasons of an answer that did not reach its own end.
UNFINISHED = ("length", "abort")

# The first words of an answer that declines; a dot stands for either apostrophe or comma.
REFUSAL = (
    r"(?i)^\s*(?:(?:i.m|i am) (?:very |really |so )?sorry|sorry|as an ai)[^.!?]{0,60}"
    r"\b(?:can.t|cannot|can not|won.t|not able to|unable to)\b"
    r"|^\s*i (?:can.t|cannot|can not|won.t|am not able to|am unable to) "
    r"(?:help|assist|provide|fulfill|comply|answer|discuss|engage|support)\b"
    r"|^\s*(?:很抱歉|对不起|抱歉).{0,3}我(?:不能|无法)"
)

# Why an answer is left out before any is compared with another; the first that applies counts.
EXCLUSIONS = (
    "empty",
    "truncated",
    "refused",
    "too_long",
    "no_reward",
    "no_verdict",
    "identical",
    "duplicate",
)


def describe(responses: pl.DataFrame, too_long: pl.Series | None = None) -> pl.DataFrame:
    """What the rules need of each answer: lengths, flags and keys of equal texts, not the text.

    So the rules hold a hundred bytes an answer, and answers can be described one part at a time.
    Keys are 64-bit hashes that mean the same within one process. `too_long` says of each answer
    whether it is to be left out as such; None: of none.
    """
    text = pl.col("text")
    stripped = text.str.strip_chars()
    return responses.select(
        "response_id",
        "prompt_id",
        "source",
        pl.col("sample_index").cast(pl.Int32),
        text.str.len_chars().alias("length"),
        text.hash().alias("text_key"),
        stripped.hash().alias("stripped_key"),
        (stripped.str.len_bytes() == 0).alias("is_empty"),
        pl.col("finish_reason").is_in(UNFINISHED).alias("is_unfinished"),
        text.str.slice(0, 200).str.contains(REFUSAL).alias("is_refusal"),
        pl.lit(False if too_long is None else too_long).alias("is_too_long"),
    )


def judge(
    described: pl.DataFrame, prompts: pl.DataFrame, scores: pl.DataFrame, selection: Selection
) -> pl.DataFrame:
    """The answers to these prompts with reward, verdict and the judge of their domain.

    A reward that is no finite number counts as missing, and so does a verdict on which two
    checks of one answer disagree.
    """
    policies = prompts.lazy().select("prompt_id", "prompt", "judge", "drop_identical")
    judged = (
        described.lazy()
        .join(policies, on="prompt_id")
        .drop("prompt_id")
        .join(_rewards(scores), on="response_id", how="left")
        .join(_verdicts(scores), on="response_id", how="left")
    )
    return judged.with_columns(_tie_length(selection), _tie_index()).collect()


def exclude(answers: pl.DataFrame, recipe: Recipe) -> pl.DataFrame:
    """The answers with `dropped_by`: the exclusion that applies first, null for a usable one."""
    selection = recipe.selection
    rules = {
        "empty": pl.col("is_empty"),
        "truncated": is_truncated(selection),
        "refused": is_refused(selection),
        "too_long": pl.col("is_too_long"),
        "no_reward": lacks_reward(recipe),
        "no_verdict": lacks_verdict(),
    }
    among_usable = {
        "identical": is_identical(),
        "duplicate": is_duplicate() & pl.lit(selection.drop_duplicates),
    }
    return answers.with_columns(first_rule(rules)).with_columns(
        pl.coalesce("dropped_by", first_rule(among_usable))
    )


def is_truncated(selection: Selection) -> pl.Expr:
    """It stopped before its end, and the recipe leaves such answers out."""
    return pl.col("is_unfinished") & pl.lit(selection.drop_truncated)


def is_refused(selection: Selection) -> pl.Expr:
    """It begins by declining, and the recipe leaves such answers out."""
    return pl.col("is_refusal") & pl.lit(selection.drop_refusals)


def lacks_reward(recipe: Recipe) -> pl.Expr:
    """There is a reward model and a judge, but no reward."""
    is_needed = pl.lit(recipe.ranking is not None) & (pl.col("judge") != "none")
    return is_needed & pl.col("reward").is_null()


def lacks_verdict() -> pl.Expr:
    """Correct answers are to be told from wrong ones, and nobody knows what this one is."""
    return (pl.col("judge") == "verdict") & pl.col("verdict").is_null()


def is_identical() -> pl.Expr:
    """The usable answers to its prompt, two or more, are one and the same text."""
    usable_text = pl.when(pl.col("dropped_by").is_null()).then("text_key")
    lowest, highest = usable_text.min(), usable_text.max()
    is_one_text = (lowest == highest) & (usable_text.count() > 1)
    return is_one_text.over("prompt") & pl.col("drop_identical")


def is_duplicate() -> pl.Expr:
    """The same source gave the same text to the same prompt under a lower sample index."""
    usable_index = pl.when(pl.col("dropped_by").is_null()).then("sample_index")
    first = usable_index.min().over("prompt", "source", "text_key", "length")
    return usable_index > first


def first_rule(rules: dict[str, pl.Expr]) -> pl.Expr:
    """`dropped_by`: the name of the first rule that holds, null where none does."""
    return pl.coalesce(_named(name, holds) for name, holds in rules.items()).alias("dropped_by")


def _named(rule: str, holds: pl.Expr) -> pl.Expr:
    return pl.when(holds).then(pl.lit(rule))


def _rewards(scores: pl.DataFrame) -> pl.LazyFrame:
    rewards = scores.lazy().filter(pl.col("reward").is_finite())
    return rewards.group_by("response_id").agg(pl.col("reward").min())


def _verdicts(scores: pl.DataFrame) -> pl.LazyFrame:
    verdicts = scores.lazy().filter(pl.col("verdict").is_not_null())
    agreed = pl.col("verdict").min() == pl.col("verdict").max()
    return verdicts.group_by("response_id").agg(pl.when(agreed).then(pl.col("verdict").min()))


def _is_unjudged() -> pl.Expr:
    """Nothing ranks it, so the order of the sources decides and its length must not."""
    return (pl.col("judge") == "none") & pl.col("reward").is_null()


def _tie_length(selection: Selection) -> pl.Expr:
    is_passed_over = _is_unjudged() | pl.lit(selection.ties == "first")
    return pl.when(is_passed_over).then(0).otherwise("length").alias("tie_length")


def _tie_index() -> pl.Expr:
    return pl.when(_is_unjudged()).then(0).otherwise("sample_index").alias("tie_index")
