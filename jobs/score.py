"""The stage score: a reward for every answer, a verdict where gold or tests can give one."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from cluster.connection import Holdings
from cluster.ray_data import quiet_ray_data
from fusion.errors import CrucibleError
from fusion.identity import KEY_LENGTH, content_hash, model_fingerprint
from fusion.recipe import Recipe, Verification
from fusion.records import SCORES
from fusion.run import Run
from fusion.verification import Limits, Malformed, Task, Verdict, Verifiers
from fusion.wanted import wanted_rewards, wanted_verdicts
from jobs.datasink import TableSink
from services.applications import handle, reward_application_name

STAGE = "score"
ROWS_PER_CALL = 256
ROWS_PER_BLOCK = 4096

_OUTPUT = pa.schema(
    [*SCORES, ("partition", pa.string()), ("failure", pa.string()), ("detail", pa.string())]
)
_TASK = ["verifier", "text", "gold", "tests", "entry_point"]


def reward_key(recipe: Recipe) -> str | None:
    """The scorer_key of the recipe's reward model, None where it has none."""
    reward = recipe.reward
    if reward is None:
        return None
    model = model_fingerprint(reward.model, reward.revision)
    shape = [model, reward.kind, reward.max_length, reward.dtype]
    return f"reward-{content_hash(shape, length=KEY_LENGTH)}"


def verifier_key(verifier: str, verification: Verification) -> str:
    """The scorer_key of a verifier under the recipe's limits."""
    with Verifiers(limits(verification)) as verifiers:
        version = verifiers.version(verifier)
    own = verification.model_dump(mode="json").get(verifier)
    return f"{verifier}-{content_hash([version, own], length=KEY_LENGTH)}"


def scorer_keys(recipe: Recipe) -> list[str]:
    """Every scorer_key this recipe's scores may have."""
    verifiers = sorted({d.verifier for d in recipe.datasets if d.verifier})
    keys = [verifier_key(name, recipe.verification) for name in verifiers]
    reward = reward_key(recipe)
    return [reward, *keys] if reward else keys


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


def load_answers(run: Run, prompts: pl.DataFrame, source_keys: Iterable[str]) -> pl.DataFrame:
    """The stored answers of some sources to these prompts, joined with the prompts' columns."""
    columns = ["response_id", "prompt_id", "text"]
    parts = [pl.DataFrame(schema=dict.fromkeys(columns, pl.String))]
    for key in source_keys:
        parts.append(pl.DataFrame(run.shared("responses").partition(key).read(columns)))
    answers = pl.concat(parts)
    wanted = ["prompt_id", "messages", "verifier", "gold", "tests", "entry_point"]
    # Equal answers to one prompt side by side: a batch judges them once.
    return answers.join(prompts.select(wanted), on="prompt_id").sort("prompt_id", "text")


def reward_wants(recipe: Recipe, answers: pl.DataFrame) -> pl.DataFrame:
    """The answers with the score_id and partition of the reward wanted; none without a model."""
    key = reward_key(recipe)
    if key is None:
        return answers.clear().with_columns(score_id=pl.lit(""), partition=pl.lit(""))
    return wanted_rewards(answers, key).with_columns(partition=pl.lit(key))


def verdict_wants(recipe: Recipe, answers: pl.DataFrame) -> pl.DataFrame:
    """The answers that a verifier can judge, with score_id and partition of the verdict."""
    parts = [answers.clear().with_columns(score_id=pl.lit(""), partition=pl.lit(""))]
    for (verifier,), group in answers.drop_nulls("verifier").group_by("verifier"):
        key = verifier_key(str(verifier), recipe.verification)
        parts.append(wanted_verdicts(group, key).with_columns(partition=pl.lit(key)))
    return pl.concat(parts)


def unscored(run: Run, wanted: pl.DataFrame) -> pl.DataFrame:
    """What of the scores wanted is neither stored nor in quarantine."""
    settled = run.quarantine(STAGE).ids().to_pylist()
    for key in wanted["partition"].unique():
        settled += run.shared("scores").partition(key).ids().to_pylist()
    return wanted.filter(~pl.col("score_id").is_in(pl.Series(settled, dtype=pl.String).implode()))


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
    for key in wanted["partition"].unique():
        stored = pl.DataFrame(run.shared("scores").partition(key).read(columns))
        scores = pl.concat([scores, stored])
    return (
        wanted.join(scores, on="score_id")
        .group_by("response_id")
        .agg(pl.col(name).drop_nulls().first() for name in ("reward", "verdict", "reason"))
    )


def score_rewards(run: Run, missing: pl.DataFrame) -> None:
    """Ask the reward model, which must be up, for every row, and commit its scores."""
    reward = run.recipe.reward
    if missing.is_empty() or reward is None:
        return
    rows = missing.select("score_id", "response_id", "partition", "messages", "text")
    application = reward_application_name(run.recipe.name)
    _run(
        run,
        rows,
        _Rate,
        concurrency=reward.replicas,
        num_cpus=0.5,
        fn_constructor_args=[application],
    )


def score_verdicts(run: Run, missing: pl.DataFrame, holdings: Holdings) -> None:
    """Check every row with its verifier, code on nodes that declare a sandbox, and commit."""
    columns = ["score_id", "response_id", "partition", *_TASK]
    for has_code in (True, False):
        rows = missing.filter((pl.col("verifier") == "code") == has_code).select(columns)
        if not rows.is_empty():
            _run(
                run,
                rows,
                _Check,
                concurrency=holdings.sandbox_nodes if has_code else holdings.nodes,
                num_cpus=1,
                resources={"sandbox": 1.0} if has_code else {},
                fn_constructor_args=[limits(run.recipe.verification)],
            )


def _run(run: Run, rows: pl.DataFrame, worker: type, *, concurrency: int, **options: Any) -> None:
    quiet_ray_data()
    blocks = [part.to_arrow() for part in rows.iter_slices(ROWS_PER_BLOCK)]
    dataset = ray.data.from_arrow(blocks).map_batches(
        worker,
        batch_size=ROWS_PER_CALL,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=concurrency),
        **options,
    )
    dataset.write_datasink(TableSink(run.shared("scores"), run.quarantine(STAGE), STAGE))


class _Rate:
    """Sends whole conversations to the reward model."""

    def __init__(self, application: str) -> None:
        self._application = application

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        conversations = [
            [*row["messages"], {"role": "assistant", "content": row["text"]}] for row in rows
        ]
        judgements = handle(self._application).score.remote(conversations).result()
        return _rows(
            {
                **_identity(row, "reward"),
                "reward": judgement.reward,
                "heads": judgement.heads,
                "failure": judgement.failure,
                "detail": judgement.detail,
            }
            for row, judgement in zip(rows, judgements, strict=True)
        )


class _Check:
    """Runs the verifiers, whose processes it keeps between batches."""

    def __init__(self, bounds: Limits) -> None:
        self._verifiers = Verifiers(bounds)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        tasks = [
            Task(r["verifier"], r["text"], r["gold"], r["tests"], r["entry_point"]) for r in rows
        ]
        outcomes = self._verifiers.verify(tasks)
        return _rows(
            _identity(row, row["verifier"]) | _outcome(outcome)
            for row, outcome in zip(rows, outcomes, strict=True)
        )


def _identity(row: dict[str, Any], scorer: str) -> dict[str, Any]:
    return {
        "score_id": row["score_id"],
        "response_id": row["response_id"],
        "scorer": scorer,
        "scorer_key": row["partition"],
        "partition": row["partition"],
    }


def _outcome(outcome: Verdict | Malformed) -> dict[str, Any]:
    if isinstance(outcome, Malformed):
        return {"failure": "malformed", "detail": outcome.detail}
    return {"verdict": "correct" if outcome.correct else "wrong", "reason": outcome.reason}


def _rows(rows: Iterable[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=_OUTPUT)


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
            outcome = Verifiers(bounds).verify([probe])[0]
        except CrucibleError as error:
            return str(error)
        is_right = isinstance(outcome, Verdict) and outcome.correct
        return None if is_right else f"The sandbox failed its probe: {outcome}."

    if fault := ray.get(ray.remote(resources={"sandbox": 1})(run_probe).remote()):
        raise CrucibleError(fault)
