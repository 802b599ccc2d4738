"""Rewards: every answer scored by the recipe's reward, and by each scorer beside it."""

import asyncio
import logging
import time
from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from fusion.errors import CrucibleError, one_line
from fusion.ingest import import_rewards
from fusion.recipe import Judge, Reward
from fusion.rewards.judge import Case, JudgeClient
from fusion.rewards.judgement import Judgement
from fusion.run import Run
from jobs.datasink import SMALL_CPUS
from jobs.scoring import commit_scores, score_identity, score_rows, score_table
from services.applications import (
    DEATHS,
    PAUSE_AFTER_DEATH_S,
    condition,
    handle,
    reward_application_name,
)

log = logging.getLogger(__name__)

_CONVERSATION = ["score_id", "response_id", "scorer", "partition", "messages", "text"]


def score_rewards(run: Run, answers: pl.DataFrame, missing: pl.DataFrame) -> None:
    """Have every missing reward given by its scorer, whose model must be up, and commit it.

    A judge that compares sees an answer beside the others of its source among `answers`.

    Raises:
        CrucibleError: the judge's endpoint does not work at all, with its own words.
    """
    for name, reward in run.recipe.rewards.items():
        rows = missing.filter(pl.col("scorer") == name)
        if rows.is_empty():
            continue
        if reward.judge:
            _ask_judge(run, reward.judge, str(reward.model), answers, rows)
        elif reward.served_model:
            _ask_model(run, name, reward, rows)
        else:
            _commit(run, rows, _given(run, reward, rows))


def _given(run: Run, reward: Reward, rows: pl.DataFrame) -> Sequence[Judgement]:
    """Judgements that nothing needs to be asked for."""
    if reward.kind == "imported":
        return import_rewards(reward, rows, malformed_limit=run.recipe.malformed_limit)
    return [Judgement(reward.value)] * rows.height


def _ask_model(run: Run, name: str, reward: Reward, rows: pl.DataFrame) -> None:
    score_rows(
        run,
        rows.select(_CONVERSATION),
        _Rate,
        concurrency=reward.replicas,
        num_cpus=SMALL_CPUS,
        fn_constructor_args=[
            reward_application_name(run.recipe.name, name),
            run.recipe.failures.wait_s,
        ],
    )


def _ask_judge(
    run: Run, judge: Judge, model: str, answers: pl.DataFrame, rows: pl.DataFrame
) -> None:
    _check_judge(judge, model, rows)
    cases = rows.select(*_CONVERSATION, "prompt_id", "source")
    if judge.comparison == "pairwise":
        cases = with_others(cases, answers)
    score_rows(
        run,
        cases,
        _AskJudge,
        concurrency=1,
        num_cpus=SMALL_CPUS,
        fn_constructor_args=[judge, model],
    )


def with_others(rows: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """The rows with `others`: what else their source answered to the prompt, other texts only."""
    texts = answers.group_by("prompt_id", "source").agg(pl.col("text").unique().alias("others"))
    joined = rows.join(texts, on=["prompt_id", "source"], how="left")
    own = pl.concat_list("text")
    return joined.with_columns(pl.col("others").list.set_difference(own).list.sort())


def _check_judge(judge: Judge, model: str, rows: pl.DataFrame) -> None:
    """One question before thousands: a judge that cannot be asked stops the stage."""
    first = rows.row(0, named=True)
    case = Case(first["messages"], first["text"], others=["."])

    async def ask() -> Judgement:
        async with JudgeClient(judge, model) as client:
            return await client.judge(case)

    judgement = asyncio.run(ask())
    if judgement.failure == "judge_failed":
        raise CrucibleError(
            f"The judge {model} at {judge.url} does not answer ({judgement.detail}); see that it "
            "is up and that the name and the key are right."
        )


def _commit(run: Run, rows: pl.DataFrame, judgements: Sequence[Judgement]) -> None:
    pairs = zip(rows.select(_CONVERSATION).iter_rows(named=True), judgements, strict=True)
    commit_scores(run, score_table(_score(row, judgement) for row, judgement in pairs))


def _score(row: dict[str, object], judgement: Judgement) -> dict[str, object]:
    return {
        **score_identity(row, str(row["scorer"])),
        "reward": judgement.reward,
        "heads": judgement.heads,
        "reason": judgement.reason,
        "failure": judgement.failure,
        "detail": judgement.detail,
    }


class _Rate:
    """Sends whole conversations to a reward model, again where its replica dies meanwhile."""

    def __init__(self, application: str, wait_s: float) -> None:
        self._application = application
        self._wait_s = wait_s

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        conversations = [
            [*row["messages"], {"role": "assistant", "content": row["text"]}] for row in rows
        ]
        return score_table(map(_score, rows, self._judgements(conversations)))

    def _judgements(self, conversations: list[list[dict[str, str]]]) -> list[Judgement]:
        give_up_at = time.monotonic() + self._wait_s
        while True:
            try:
                judgements: list[Judgement] = (
                    handle(self._application).score.remote(conversations).result()
                )
            except DEATHS as error:
                if time.monotonic() > give_up_at:
                    raise CrucibleError(
                        f"The reward model died ({one_line(error)}) and judged nothing within "
                        f"{self._wait_s:g} s; Ray Serve says: {condition(self._application)}. Mend "
                        "the cause, or raise failures.wait_s, and start the same command again."
                    ) from None
                log.warning("the reward model died and is waited for: %s", one_line(error))
                time.sleep(PAUSE_AFTER_DEATH_S)
            else:
                return judgements


class _AskJudge:
    """Asks a judge about every answer of a batch, many at once."""

    def __init__(self, judge: Judge, model: str) -> None:
        self._judge = judge
        self._model = model

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        cases = [Case(row["messages"], row["text"], row.get("others") or ()) for row in rows]
        return score_table(map(_score, rows, asyncio.run(self._judge_all(cases))))

    async def _judge_all(self, cases: Sequence[Case]) -> list[Judgement]:
        async with JudgeClient(self._judge, self._model) as client:
            return await asyncio.gather(*map(client.judge, cases))
