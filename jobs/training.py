"""Training on Ray Train: what sft and dpo share, seen from the driver."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from cluster.connection import Holdings
from fusion.checkpoints import CHOICE_FILE, committed_steps, step_note
from fusion.errors import BadInputError, CrucibleError
from fusion.recipe import Training
from fusion.store import Location
from fusion.training_rows import TokenRows
from jobs.progress import Progress
from jobs.training_worker import HELD_OUT_FILE, ROWS_FILE, WorkerConfig, train_as_worker


def train(
    *,
    name: str,
    model: str,
    revision: str | None,
    training: Training,
    rows: pa.Table,
    held_out: pa.Table,
    lineage: Mapping[str, str],
    checkpoint: Location,
    log: Location,
    holdings: Holdings,
    progress: Progress,
) -> None:
    """Train a model on token rows with Ray Train, to a complete checkpoint and a log.

    A training that was killed goes on from the last step it saved; so do workers that failed.

    Args:
        name: Of the run and stage.
        model: Where training starts: a local folder, s3:// or a hub id.
        revision: Revision of a hub id.
        training: The recipe's section.
        rows: `fusion.training_rows.SFT_ROWS`, or `PAIR_ROWS` with reference log-probs.
        held_out: Rows of the same kind that saved steps are judged by; may be empty.
        lineage: Fingerprints of all that the model depends on.
        checkpoint: Where the trained model goes.
        log: Where the JSON lines of the logged steps go.
        holdings: What the cluster holds.
        progress: Told of the steps while they are made.

    Raises:
        BadInputError: saved steps of ZeRO are of another number of workers.
        CrucibleError: workers failed more often than they may be restarted, or the figures of a
            step were such that training must not go on.
    """
    work = checkpoint / "work"
    _write_rows(work / ROWS_FILE, rows)
    _write_rows(work / HELD_OUT_FILE, held_out)
    on_gpu = holdings.gpus > 0
    config = WorkerConfig(
        name=name,
        model=model,
        revision=revision,
        training=training,
        lineage=dict(lineage),
        checkpoint=checkpoint,
        log=log,
        on_gpu=on_gpu,
        cores=holdings.cores,
    )
    _check_workers(config)
    if not committed_steps(config.steps):
        log.delete()  # that of an earlier training
    train_loop: Any = _train  # Ray hands its result on, which its type does not say
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"config": config},
        scaling_config=ScalingConfig(num_workers=_num_workers(training), use_gpu=on_gpu),
        run_config=RunConfig(
            name=f"ray-{uuid4().hex}",
            storage_path=work.path,
            storage_filesystem=work.filesystem,
            failure_config=FailureConfig(max_failures=training.restarts),
        ),
    )
    try:
        with progress.repeating(lambda: _last_step(name, log)):
            result: Any = trainer.fit()
    except Exception as error:  # Ray wraps whatever a worker raised
        raise CrucibleError(f"Training {name} failed: {_cause(error)}") from error
    if result.return_value:
        raise CrucibleError(
            _stop_sentence(name, result.return_value, committed_steps(config.steps))
        )
    work.delete()


def _num_workers(training: Training) -> Any:  # Ray's type leaves the range out
    """A range makes Ray Train elastic: it starts the workers anew when their number changes."""
    if training.min_workers is None:
        return training.workers
    return training.min_workers, training.workers


def _check_workers(config: WorkerConfig) -> None:
    """DeepSpeed keeps a part of the optimiser for each worker; the others keep it whole."""
    training, steps = config.training, committed_steps(config.steps)
    if not steps or training.strategy not in ("zero2", "zero3"):
        return
    before = step_note(steps[-1])["workers"]
    if before != training.workers:
        raise BadInputError(
            f"Training {config.name} was saved by {before} workers with {training.strategy} and "
            f"cannot go on with {training.workers}; give it {before}, or delete {config.work}."
        )


def _last_step(name: str, log: Location) -> str | None:
    """The last logged step in words."""
    try:
        steps = [json.loads(line) for line in log.read_text().splitlines()]
    except FileNotFoundError:
        return None
    steps = [step for step in steps if "grad_norm" in step]
    if not steps:
        return None
    last = steps[-1]
    return (
        f"{name}: step {last['step']}, loss {last['loss']:.4f}, "
        f"{last['tokens_per_second']:,.0f} tokens/s"
    )


def _stop_sentence(name: str, stopped: str, steps: Sequence[Location]) -> str:
    good = f"the last good step is {steps[-1]}" if steps else "no step was saved before"
    return (
        f"Training {name} was stopped: {stopped}; {good}. Lower the learning rate, raise beta or "
        "look at the data, and run again."
    )


def training_account(checkpoint: Location, made: TokenRows) -> dict[str, Any]:
    """What a manifest says beside counts: where the model is, which step, how many replies cut."""
    choice = json.loads((checkpoint / CHOICE_FILE).read_text())
    return {"checkpoint": str(checkpoint), "cut": made.cut, "choice": choice}


def token_count(rows: pa.Table, columns: Sequence[str]) -> int:
    """Tokens in some columns of token rows; a column named twice counts twice."""
    return sum(pc.sum(pc.list_value_length(rows[column])).as_py() for column in columns)


def _train(config: dict[str, Any]) -> str | None:
    return train_as_worker(config["config"])


def _cause(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _write_rows(location: Location, rows: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    location.write_bytes(sink.getvalue())
