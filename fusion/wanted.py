"""Which answers and scores a run wants: pure functions, so that resume is wanted minus stored."""

from collections.abc import Mapping

import polars as pl

from fusion.identity import content_hash, response_id, score_id


def wanted_responses(
    prompts: pl.DataFrame, source_key: str, samples: Mapping[str, int]
) -> pl.DataFrame:
    """One row an answer wanted of one source: prompt_id, sample_index, response_id.

    `samples` gives the number of answers a prompt of each data set gets.
    """
    counts = pl.col("dataset").replace_strict(samples, default=0, return_dtype=pl.Int64)
    indexed = (
        prompts.select("prompt_id", pl.int_ranges(0, counts).alias("sample_index"))
        .explode("sample_index")
        .drop_nulls()
    )
    ids = [response_id(prompt, source_key, index) for prompt, index in indexed.iter_rows()]
    return indexed.with_columns(pl.Series("response_id", ids, dtype=pl.String))


def sample_requests(missing: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """One row a prompt that still lacks answers: prompt_id, messages, sample_indexes."""
    indexes = missing.group_by("prompt_id").agg(
        pl.col("sample_index").sort().alias("sample_indexes")
    )
    return indexes.join(prompts.select("prompt_id", "messages"), on="prompt_id").select(
        "prompt_id", "messages", "sample_indexes"
    )


def wanted_rewards(responses: pl.DataFrame, scorer_key: str) -> pl.DataFrame:
    """The responses with the score_id that their reward has under a scorer."""
    ids = [score_id(response, scorer_key, "") for response in responses["response_id"]]
    return responses.with_columns(pl.Series("score_id", ids, dtype=pl.String))


def wanted_verdicts(responses: pl.DataFrame, scorer_key: str) -> pl.DataFrame:
    """The responses, joined with gold and tests, and the score_id of their verdict."""
    checked_against: dict[tuple[str | None, ...], str] = {}
    ids = []
    columns = ("response_id", "gold", "tests", "entry_point")
    for response, *check in responses.select(columns).iter_rows():
        key = tuple(check)
        if key not in checked_against:
            checked_against[key] = content_hash(check)
        ids.append(score_id(response, scorer_key, checked_against[key]))
    return responses.with_columns(pl.Series("score_id", ids, dtype=pl.String))


def scores_in_force(scores: pl.DataFrame, answers: pl.DataFrame, scorer_key: str) -> pl.DataFrame:
    """One scorer's scores of these answers, without verdicts on an earlier gold or other tests.

    `answers` has what `wanted_verdicts` takes, `scores` also score_id, response_id and verdict.
    """
    is_verdict = pl.col("verdict").is_not_null()
    rewards = scores.filter(~is_verdict).join(answers, on="response_id", how="semi")
    verdicts = scores.filter(is_verdict)
    checked = answers.join(verdicts, on="response_id", how="semi")
    wanted = wanted_verdicts(checked, scorer_key)
    return pl.concat([rewards, verdicts.join(wanted, on="score_id", how="semi")])
