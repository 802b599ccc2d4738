"""The stage score: a reward for every answer, a verdict where gold or tests can give one."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import polars as pl

from fusion.identity import KEY_LENGTH, content_hash, model_fingerprint
from fusion.ingest import DataPath
from fusion.recipe import Recipe, Reward, Verification
from fusion.run import Run
from fusion.verification import Limits, Verifiers
from fusion.wanted import wanted_rewards, wanted_verdicts

STAGE = "score"
# Why an answer has no score today and may have one tomorrow: it is asked for again.
PASSING = {"judge_failed"}

# Of a judge, what changes only how fast or how stubbornly it is asked.
_NOT_JUDGEMENT = {"key_env", "at_once", "attempts", "timeout_s"}


def reward_key(name: str, reward: Reward) -> str:
    """The scorer_key of a reward: its name, and a hash of all that shapes its values."""
    return f"{name}-{content_hash(_shape(reward), length=KEY_LENGTH)}"


def _shape(reward: Reward) -> list[Any]:
    if reward.kind == "constant":
        return [reward.kind, reward.value]
    if reward.kind == "imported":
        path = DataPath(str(reward.path), reward.revision)
        marker = [reward.turn_marker] if reward.turn_marker else []
        return [path.fingerprint(), reward.kind, reward.fields, *marker]
    if reward.judge:
        return [reward.model, reward.kind, reward.judge.model_dump(exclude=_NOT_JUDGEMENT)]
    model = model_fingerprint(str(reward.model), reward.revision)
    return [model, reward.kind, reward.max_length, reward.dtype]


def verifier_key(verifier: str, verification: Verification) -> str:
    """The scorer_key of a verifier under the recipe's limits."""
    with Verifiers(limits(verification)) as verifiers:
        version = verifiers.version(verifier)
    own = verification.model_dump(mode="json").get(verifier)
    return f"{verifier}-{content_hash([version, own], length=KEY_LENGTH)}"


def scorer_keys(recipe: Recipe) -> list[str]:
    """The scorer_keys that selection goes by: the reward that ranks, and every verifier."""
    verifiers = sorted({d.verifier for d in recipe.datasets if d.verifier})
    keys = [verifier_key(name, recipe.verification) for name in verifiers]
    if recipe.ranking is None:
        return keys
    return [reward_key(recipe.selection.ranked_by, recipe.ranking), *keys]


def limits(verification: Verification) -> Limits:
    """The verifiers' limits, as the recipe sets them."""
    code = verification.code
    return replace(
        Limits(),
        code_timeout_s=code.timeout_s,
        code_memory_mib=code.memory_mib,
        code_processes=code.processes,
        code_output_kib=code.output_kib,
        code_file_mib=code.file_mib,
        math_timeout_s=verification.math.timeout_s,
        workers=verification.workers,
    )


def stored_answers(run: Run, prompts: pl.DataFrame, source_keys: Iterable[str]) -> pl.DataFrame:
    """The stored answers of some sources to these prompts, with what they are checked against.

    Without their texts: those are read where they are scored.
    """
    columns = ["response_id", "prompt_id", "source", "source_key"]
    parts = [pl.DataFrame(schema=dict.fromkeys(columns, pl.String))]
    for key in source_keys:
        parts.append(pl.DataFrame(run.shared("responses").partition(key).read(columns)))
    checks = prompts.select("prompt_id", "verifier", "gold", "tests", "entry_point")
    return pl.concat(parts).join(checks, on="prompt_id")


def reward_wants(recipe: Recipe, answers: pl.DataFrame) -> pl.DataFrame:
    """The answers once for each of the recipe's rewards: with scorer, score_id and partition."""
    parts = [_no_wants(answers)]
    for name, reward in recipe.rewards.items():
        key = reward_key(name, reward)
        wanted = wanted_rewards(answers, key)
        parts.append(wanted.with_columns(scorer=pl.lit(name), partition=pl.lit(key)))
    return pl.concat(parts)


def verdict_wants(recipe: Recipe, answers: pl.DataFrame) -> pl.DataFrame:
    """The answers that a verifier can judge, with scorer, score_id and partition of the verdict."""
    parts = [_no_wants(answers)]
    for (verifier,), group in answers.drop_nulls("verifier").group_by("verifier"):
        key = verifier_key(str(verifier), recipe.verification)
        wanted = wanted_verdicts(group, key)
        parts.append(wanted.with_columns(scorer=pl.lit(verifier), partition=pl.lit(key)))
    return pl.concat(parts)


def _no_wants(answers: pl.DataFrame) -> pl.DataFrame:
    added = ("score_id", "scorer", "partition")
    return answers.clear().with_columns(pl.lit("").alias(column) for column in added)


def unscored(run: Run, wanted: pl.DataFrame) -> pl.DataFrame:
    """What of the scores wanted is neither stored nor in quarantine for good."""
    failures = pl.DataFrame(run.quarantine(STAGE).read(["id", "reason"]))
    settled = failures.filter(~pl.col("reason").is_in(PASSING))["id"]
    return not_stored(run, wanted).filter(~pl.col("score_id").is_in(settled.implode()))


def not_stored(run: Run, wanted: pl.DataFrame) -> pl.DataFrame:
    """What of the scores wanted is not there, whether it was tried or not."""
    stored = [pl.Series(dtype=pl.String)]
    for key in wanted["partition"].unique():
        stored.append(pl.Series(run.shared("scores").partition(key).ids(), dtype=pl.String))
    return wanted.filter(~pl.col("score_id").is_in(pl.concat(stored).implode()))


def current_scores(run: Run, answers: pl.DataFrame) -> pl.DataFrame:
    """response_id, reward, verdict and reason of the answers, under this recipe's scorers.

    A verdict on an earlier gold or other tests has another score_id and does not count.
    """
    columns = ["score_id", "reward", "verdict", "reason"]
    scores = pl.DataFrame(
        schema={"score_id": pl.String, "reward": pl.Float64}
        | dict.fromkeys(["verdict", "reason"], pl.String)
    )
    wants = [reward_wants(run.recipe, answers), verdict_wants(run.recipe, answers)]
    wanted = pl.concat(w.select("response_id", "score_id", "partition") for w in wants)
    wanted = wanted.filter(pl.col("partition").is_in(scorer_keys(run.recipe)))
    for key in wanted["partition"].unique():
        stored = pl.DataFrame(run.shared("scores").partition(key).read(columns))
        scores = pl.concat([scores, stored])
    return (
        wanted.join(scores, on="score_id")
        .group_by("response_id")
        .agg(pl.col(name).drop_nulls().first() for name in ("reward", "verdict", "reason"))
    )
