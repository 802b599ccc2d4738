"""The stage evaluate: the target's checkpoints answer the held-out prompts; all answers in one."""

import polars as pl
import pyarrow as pa

from cluster.connection import Holdings
from fusion.checkpoints import is_complete
from fusion.identity import content_hash
from fusion.ingest import ingest_key
from fusion.records import RESULTS
from fusion.run import Run
from fusion.store import Counts, Manifest, is_current
from jobs.answering import Answering
from jobs.dpo import dpo_checkpoint
from jobs.models import checkpoint_asking, source_keys
from jobs.progress import Progress
from jobs.sample import Asking, release_failures
from jobs.score import current_scores, scorer_keys, stored_answers
from jobs.sft import sft_checkpoint
from jobs.stage import StageClock, write_manifest

STAGE = "evaluate"


def checkpoint_askings(run: Run, prompts: pl.DataFrame) -> list[Asking]:
    """Base, sft and dpo, as far as they are trained, and the held-out prompts."""
    models = {"base": run.recipe.target.model}
    for name, location in (("sft", sft_checkpoint(run)), ("dpo", dpo_checkpoint(run))):
        if is_complete(location):
            models[name] = str(location)
    return [checkpoint_asking(run, name, model, prompts) for name, model in models.items()]


def run_evaluate(
    run: Run, prompts: pl.DataFrame, holdings: Holdings, progress: Progress
) -> Manifest:
    """Answer and score what is missing, and write one results row for each held-out answer."""
    askings = checkpoint_askings(run, prompts)
    held_out = prompts.filter(pl.col("split") == "test")
    keys = source_keys(run, "test") | {a.served.name: a.source_key for a in askings}
    inputs = {
        "answers": content_hash(keys),
        "scorers": content_hash(scorer_keys(run.recipe)),
        "prompts": ingest_key(run.recipe),
    }
    done = Manifest.read(run.manifest(STAGE))
    if done and is_current(done, inputs):
        return done
    clock = StageClock()
    if not held_out.is_empty():
        release_failures(run, askings)
        with Answering(run, holdings, progress, keeps_time=False) as answering:
            answering.run(askings, held_out, score=True)
    results = _results(run, held_out, keys)
    run.manifest(STAGE).delete()  # it is of the results that go
    _replace(run, results)
    wanted = sum(a.wanted().height for a in askings)
    answered = results.filter(pl.col("model").is_in([a.served.name for a in askings]))
    unanswered = wanted - answered.height
    return write_manifest(
        run,
        STAGE,
        clock,
        inputs=inputs,
        counts=Counts(
            entered=wanted,
            results=answered.height,
            quarantined={"unanswered": unanswered} if unanswered else {},
            unit="answers",
        ),
        tokens={"completion": int(answered["completion_tokens"].sum() or 0)},
    )


def _results(run: Run, held_out: pl.DataFrame, keys: dict[str, str]) -> pl.DataFrame:
    """Every model's first answer to each held-out prompt, with reward and verdict."""
    columns = ["response_id", "prompt_id", "sample_index", "text"]
    columns += ["finish_reason", "completion_tokens"]
    parts = [
        pl.DataFrame(run.shared("responses").partition(key).read(columns)).with_columns(
            model=pl.lit(name)
        )
        for name, key in keys.items()
    ]
    first = pl.concat(parts).filter(pl.col("sample_index") == 0)
    answers = stored_answers(run, held_out, keys.values())
    described = held_out.select("prompt_id", "dataset", "domain")
    return (
        first.join(described, on="prompt_id")
        .join(current_scores(run, answers), on="response_id", how="left")
        .select(RESULTS.names)
    )


def _replace(run: Run, results: pl.DataFrame) -> None:
    table = run.results()
    table.location.delete()
    table.append(
        results.to_arrow().cast(RESULTS) if results.height else pa.Table.from_pylist([], RESULTS)
    )
