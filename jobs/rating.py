"""Rewards: every answer scored by the recipe's reward, and by each scorer beside it."""

import asyncio
import logging
import time
from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from fusion.errors import CrucibleError, one_line
from fusion.failures import FAILURES_BEFORE_A_STOP, exceeds
from fusion.ingest import import_rewards
from fusion.recipe import Judge, Reward
from fusion.rewards.judge import Case, JudgeClient
from fusion.rewards.judgement import Judgement
from fusion.run import Run
from jobs.contents import Contents
from jobs.datasink import SMALL_CPUS
from jobs.score import PASSING, STAGE
from jobs.scoring import IDS, commit_scores, score_identity, score_rows, score_table
from services.applications import (
    DEATHS,
    PAUSE_AFTER_DEATH_S,
    condition,
    handle,
    reward_application_name,
)

log = logging.getLogger(__name__)


def score_rewards(run: Run, missing: pl.DataFrame) -> None:
    """Have every missing reward given by its scorer, whose model must be up, and commit it.

    Raises:
        CrucibleError: the judge's endpoint does not work at all, with its own words.
    """
    for name, reward in run.recipe.rewards.items():
        rows = missing.filter(pl.col("scorer") == name).select(IDS)
        if rows.is_empty():
            continue
        if reward.judge:
            _ask_judge(run, reward.judge, str(reward.model), rows)
        elif reward.served_model:
            _ask_model(run, name, reward, rows)
        else:
            _commit(run, rows, _given(run, reward, rows))


def _given(run: Run, reward: Reward, rows: pl.DataFrame) -> Sequence[Judgement]:
    """Judgements that nothing needs to be asked for."""
    if reward.kind == "imported":
        return _imported(run, reward, rows)
    return [Judgement(reward.value)] * rows.height


def _imported(run: Run, reward: Reward, rows: pl.DataFrame) -> Sequence[Judgement]:
    """What the file says of these rows of one scorer; its malformed rows go to quarantine."""
    answers = rows if "response_id" in reward.fields else _contents(run, rows)
    limit = run.recipe.malformed_limit
    made = import_rewards(reward, rows["partition"][0], answers, malformed_limit=limit)
    quarantine = run.quarantine(STAGE)
    if len(quarantine.missing(made.quarantined["id"])):
        quarantine.append(made.quarantined)
    if made.quarantined.num_rows or made.num_unmatched or made.num_repeated:
        log.warning(
            "of the rewards in %s %d rows are malformed, %d judge an answer again, and %d are of "
            "none of the %d answers scored now",
            reward.path,
            made.quarantined.num_rows,
            made.num_repeated,
            made.num_unmatched,
            rows.height,
        )
    return made.judgements


def _contents(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with their texts, in the order given."""
    read = pl.DataFrame(Contents.of(run).read(rows.to_arrow()))
    return rows.join(read.select("score_id", "text"), on="score_id", maintain_order="left")


def _ask_model(run: Run, name: str, reward: Reward, rows: pl.DataFrame) -> None:
    score_rows(
        run,
        rows,
        _Rate,
        concurrency=reward.replicas,
        num_cpus=SMALL_CPUS,
        fn_constructor_args=[
            reward_application_name(run.recipe.name, name),
            run.recipe.failures.wait_s,
        ],
    )


def _ask_judge(run: Run, judge: Judge, model: str, rows: pl.DataFrame) -> None:
    _check_judge(judge, model, Contents.of(run).read(rows.head(1).to_arrow()))
    score_rows(
        run,
        rows,
        AskJudge,
        concurrency=1,
        has_others=judge.comparison == "pairwise",
        num_cpus=SMALL_CPUS,
        fn_constructor_args=[judge, model, run.recipe.failures.limit],
    )


def _check_judge(judge: Judge, model: str, rows: pa.Table) -> None:
    """One question before thousands: a judge that cannot be asked stops the stage."""
    (first,) = rows.to_pylist()
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
    pairs = zip(rows.iter_rows(named=True), judgements, strict=True)
    commit_scores(run, score_table(_score(row, judgement) for row, judgement in pairs))


def _score(row: dict[str, object], judgement: Judgement) -> dict[str, object]:
    return {
        **score_identity(row),
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


class AskJudge:
    """Asks a judge about every answer of a batch, many at once; one that went away is an error."""

    def __init__(self, judge: Judge, model: str, limit: float) -> None:
        self._judge = judge
        self._model = model
        self._limit = limit

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The score_table of a batch.

        Raises:
            CrucibleError: the judge failed on more of it than the limit allows.
        """
        rows = batch.to_pylist()
        cases = [Case(row["messages"], row["text"], row.get("others") or ()) for row in rows]
        judgements = asyncio.run(self._judge_all(cases))
        self._check(judgements)
        return score_table(map(_score, rows, judgements))

    def _check(self, judgements: Sequence[Judgement]) -> None:
        failed = [j for j in judgements if j.failure in PASSING]
        if exceeds(len(failed), max(len(judgements), FAILURES_BEFORE_A_STOP), self._limit):
            raise CrucibleError(
                f"The judge {self._model} at {self._judge.url} failed on {len(failed)} of "
                f"{len(judgements)} answers and failures.limit is {self._limit:g} "
                f"({failed[-1].detail}); see that it is up, and start the same command again."
            )

    async def _judge_all(self, cases: Sequence[Case]) -> list[Judgement]:
        async with JudgeClient(self._judge, self._model) as client:
            return await asyncio.gather(*map(client.judge, cases))
