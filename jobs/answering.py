"""Waves of models answering and being scored: what sampling and evaluation have in common."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

import polars as pl
from ray.serve import Application

from cluster.connection import Holdings, current_holdings, usable
from fusion.errors import CrucibleError
from fusion.run import Run
from jobs.accounts import add_seconds
from jobs.background import Background
from jobs.checking import score_verdicts
from jobs.committing import STAGE
from jobs.models import (
    Waves,
    gpus_on_a_node,
    reward_applications,
    source_applications,
    waves_of,
)
from jobs.progress import Progress
from jobs.rating import score_rewards
from jobs.sample import Asking, num_missing, sample
from jobs.score import STAGE as SCORE
from jobs.score import reward_wants, stored_answers, unscored, verdict_wants
from jobs.speeds import measuring
from jobs.stage import StageClock
from services.applications import (
    down,
    down_leftovers,
    run_deployment,
    serving,
    start_serve,
    up,
)
from services.source import Served


class Answering:
    """Runs askings wave by wave, and adds up the time that sampling and scoring take.

    The reward model comes up with the first need of it and stays until the block ends.

    Args:
        run: The run.
        holdings: What the cluster holds.
        progress: Told of what comes up and of answers as they come.
        keeps_time: Whether the time is that of the stages sample and score.
    """

    def __init__(
        self, run: Run, holdings: Holdings, progress: Progress, *, keeps_time: bool = True
    ) -> None:
        self._run = run
        self._keeps_time = keeps_time
        self._holdings = holdings
        self._progress = progress
        self._reward_is_up = False
        self._beside = Background()

    def __enter__(self) -> Self:
        start_serve()
        down_leftovers(self._run.recipe.name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):  # a failure, no interrupt: what scores beside it may end
            with suppress(CrucibleError):
                self._beside.wait()
        self._reward_down()

    def run(
        self,
        askings: Sequence[Asking],
        prompts: pl.DataFrame,
        *,
        score: bool,
        at_once: int | None = None,
    ) -> None:
        """Have every asking answered and, if asked for, every answer scored, wave by wave.

        Before each wave the rest is planned anew for the nodes that are there then. On GPUs a wave
        is scored while the next one samples, if the reward model has room beside it.
        """
        missing = {a.source_key: num_missing(self._run, a) for a in askings}
        waiting = [a for a in askings if missing[a.source_key]]
        is_scored = False  # from then on the reward model is up, or comes up beside
        while waiting:
            planned = self._plan(waiting, missing, at_once, reward_is_up=is_scored)
            wave = {model.name: model for model in planned.waves[0]}
            if not planned.reward_stays:
                self._beside.wait()
                self._reward_down()
            members = [
                replace(a, served=wave[a.served.name]) for a in waiting if a.served.name in wave
            ]
            self._sample(members)
            if score:
                keys = [a.source_key for a in members]
                self._score_wave(prompts, keys, beside=planned.reward_stays)
                is_scored = True
            waiting = [a for a in waiting if a.served.name not in wave]
        self._beside.wait()
        if score and askings:
            self.score(prompts, [a.source_key for a in askings])

    def _score_wave(self, prompts: pl.DataFrame, keys: Sequence[str], *, beside: bool) -> None:
        if beside and self._holdings.gpus:
            self._beside.start(lambda: self.score(prompts, keys))
        else:
            self.score(prompts, keys)

    def _plan(
        self,
        waiting: Sequence[Asking],
        missing: dict[str, int],
        most: int | None,
        *,
        reward_is_up: bool,
    ) -> Waves:
        answers: Counter[str] = Counter()
        for asking in waiting:
            answers[asking.served.name] += missing[asking.source_key]
        served = list({a.served.name: a.served for a in waiting}.values())
        self._holdings = usable(self._run.recipe, current_holdings())
        return waves_of(
            self._run.recipe,
            served,
            self._holdings,
            at_once=most,
            answers=answers,
            reward_is_up=reward_is_up,
        )

    def score(self, prompts: pl.DataFrame, source_keys: Sequence[str]) -> None:
        """Score what the store holds of these sources and has no score yet."""
        run, clock = self._run, StageClock()
        answers = stored_answers(run, prompts, source_keys)
        verdicts = unscored(run, verdict_wants(run.recipe, answers))
        rewards = unscored(run, reward_wants(run.recipe, answers))
        if verdicts.is_empty() and rewards.is_empty():
            return
        self._progress.say(f"scoring: {rewards.height} rewards, {verdicts.height} verdicts")
        if not rewards.is_empty():
            self._reward_up()
            score_rewards(run, rewards)
        score_verdicts(run, verdicts, self._holdings)
        for key in {*rewards["partition"], *verdicts["partition"]}:
            run.shared("scores").partition(key).compact()
        self._add_seconds(SCORE, clock.seconds)

    def _sample(self, waiting: Sequence[Asking]) -> None:
        clock = StageClock()
        models: dict[str, Served] = {a.served.name: a.served for a in waiting}
        names = ", ".join(models)
        self._progress.say(f"starting {names}")
        recipe, deployment = self._run.recipe, run_deployment(self._run.recipe.name)
        applications = source_applications(
            recipe, models.values(), self._holdings, deployment=deployment
        )
        gpus = gpus_on_a_node(recipe, models.values())
        with serving(applications, gpus=gpus, wait_s=recipe.failures.wait_s):
            self._progress.say(f"{names} up after {clock.seconds:.0f} s")
            responses = self._run.shared("responses")
            tables = [responses.partition(asking.source_key) for asking in waiting]
            wanted = sum(num_missing(self._run, asking) for asking in waiting)
            with self._progress.counting("answers", tables, wanted), measuring(self._run, waiting):
                sample(self._run, waiting)
        for table in tables:
            table.compact()
        self._add_seconds(STAGE, clock.seconds)

    def _add_seconds(self, stage: str, seconds: float) -> None:
        if self._keeps_time:
            add_seconds(self._run, stage, seconds)

    def _reward_applications(self) -> dict[str, Application]:
        recipe = self._run.recipe
        return reward_applications(recipe, self._holdings, deployment=run_deployment(recipe.name))

    def _reward_down(self) -> None:
        down(self._reward_applications())
        self._reward_is_up = False

    def _reward_up(self) -> None:
        if not self._reward_is_up:
            up(self._reward_applications(), wait_s=self._run.recipe.failures.wait_s)
            self._reward_is_up = True
