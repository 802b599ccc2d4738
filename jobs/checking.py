"""Verdicts: answers checked against gold or tests, code where there is a sandbox."""

from dataclasses import replace
from functools import cached_property
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from cluster.connection import Holdings
from cluster.settings import isolator
from fusion.errors import CrucibleError
from fusion.recipe import Recipe
from fusion.run import Run
from fusion.verification import Limits, Malformed, Task, Verdict, Verifiers
from jobs.datasink import SMALL_CPUS
from jobs.score import limits
from jobs.scoring import score_identity, score_rows, score_table


def score_verdicts(run: Run, missing: pl.DataFrame, holdings: Holdings) -> None:
    """Check every row with its verifier, code on nodes that declare a sandbox, and commit."""
    for has_code in (True, False):
        rows = missing.filter((pl.col("scorer") == "code") == has_code)
        if not rows.is_empty():
            score_rows(
                run,
                rows,
                _Check,
                concurrency=max(1, holdings.sandbox_nodes if has_code else holdings.nodes),
                # A pod that is a sandbox has no CPU slots, so that nothing else is sent there.
                num_cpus=0 if has_code else SMALL_CPUS,
                resources={"sandbox": 1.0} if has_code else {},
                fn_constructor_args=[limits(run.recipe.verification)],
            )


class _Check:
    """Runs the verifiers, whose processes it keeps between batches."""

    def __init__(self, bounds: Limits) -> None:
        self._bounds = bounds

    @cached_property
    def _verifiers(self) -> Verifiers:  # made with the first batch: Ray tells why that fails
        return Verifiers(replace(self._bounds, isolator=isolator()))

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        tasks = [
            Task(r["verifier"], r["text"], r["gold"], r["tests"], r["entry_point"]) for r in rows
        ]
        outcomes = self._verifiers.verify(tasks)
        return score_table(
            score_identity(row) | _outcome(outcome)
            for row, outcome in zip(rows, outcomes, strict=True)
        )


def _outcome(outcome: Verdict | Malformed) -> dict[str, Any]:
    if isinstance(outcome, Malformed):
        return {"failure": "malformed", "detail": outcome.detail}
    return {"verdict": "correct" if outcome.correct else "wrong", "reason": outcome.reason}


def uses_code(recipe: Recipe) -> bool:
    """Whether the recipe runs code, so that a node with a sandbox is needed."""
    return any(dataset.verifier == "code" for dataset in recipe.datasets)


def check_sandbox(recipe: Recipe, holdings: Holdings) -> None:
    """See, before anything is sampled, that a node can run code in isolation.

    Raises:
        CrucibleError: no node declares the resource sandbox, or its isolator does not work.
    """
    if not holdings.sandbox_nodes:
        raise CrucibleError(
            "The recipe runs code and no node of the cluster declares the resource sandbox; "
            "start one with `ray start --resources='{\"sandbox\": 4}'` where bubblewrap is."
        )
    probe = Task("code", "def one():\n    return 1", tests="assert one() == 1", entry_point="one")
    bounds = limits(recipe.verification)

    def run_probe() -> str | None:
        try:
            outcome = Verifiers(replace(bounds, isolator=isolator())).verify([probe])[0]
        except CrucibleError as error:
            return str(error)
        is_right = isinstance(outcome, Verdict) and outcome.correct
        return None if is_right else f"The sandbox failed its probe: {outcome}."

    probing = ray.remote(num_cpus=0, resources={"sandbox": 1})(run_probe).remote()
    try:
        fault = ray.get(probing, timeout=recipe.failures.wait_s)
    except ray.exceptions.GetTimeoutError:
        fault = f"No node with a sandbox was free within {recipe.failures.wait_s:g} s; add one."
    if fault:
        raise CrucibleError(fault)
