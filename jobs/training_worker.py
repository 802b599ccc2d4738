"""One Ray Train worker: go on where a killed training stopped, train, hand the model over.

torch and transformers are imported where a worker runs, not where a driver reads this.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fusion.checkpoints import committed_steps, fetch_step, step_folder, step_note
from fusion.identity import content_hash
from fusion.recipe import Training
from fusion.store import Location

ROWS_FILE, HELD_OUT_FILE = "rows.parquet", "held_out.parquet"


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker is told; see `jobs.training.train`. `cores` are those of all workers."""

    name: str
    model: str
    revision: str | None
    training: Training
    lineage: Mapping[str, str]
    checkpoint: Location
    log: Location
    on_gpu: bool
    cores: int

    @property
    def work(self) -> Location:
        """Where rows and steps lie while training."""
        return self.checkpoint / "work"

    @property
    def steps(self) -> Location:
        """Where the steps are saved from which training goes on."""
        return self.work / "steps"

    @property
    def scratch(self) -> Path:
        """The folder of this training that a node's workers share."""
        return Path(tempfile.gettempdir()) / f"crucible-train-{content_hash(str(self.work))}"


def train_as_worker(config: WorkerConfig) -> str | None:
    """Train; the first worker then exports the model. Says why training stopped early, if so."""
    import ray.train
    import torch
    import torch.distributed as dist

    from jobs.model_export import export_model
    from jobs.trainer_setup import build_trainer, total_steps

    context = ray.train.get_context()
    if not config.on_gpu:
        torch.set_num_threads(max(1, config.cores // context.get_world_size()))
    leads_node = context.get_local_rank() == 0
    if leads_node:
        shutil.rmtree(config.scratch, ignore_errors=True)
    rows, held_out = (_read(config.work / name) for name in (ROWS_FILE, HELD_OUT_FILE))
    last, stopped = _last_step(config, leads_node=leads_node), None
    if last is None or step_note(last)["step"] < total_steps(rows, config.training):
        folder = step_folder(last, config.scratch) if last else None
        trainer = build_trainer(config, rows, held_out, folder)
        trainer.train(resume_from_checkpoint=folder and str(folder))
        stopped = trainer.stopped
    if context.get_world_rank() == 0 and stopped is None:
        export_model(config, rows.num_rows)
    dist.barrier()
    if leads_node:
        shutil.rmtree(config.scratch, ignore_errors=True)
    return stopped


def _last_step(config: WorkerConfig, *, leads_node: bool) -> Location | None:
    """The last step saved to its end, fetched to this node."""
    import torch.distributed as dist

    steps = committed_steps(config.steps)
    if steps and leads_node:
        fetch_step(steps[-1], config.scratch)
    dist.barrier()
    return steps[-1] if steps else None


def _read(location: Location) -> pa.Table:
    return pq.read_table(pa.BufferReader(location.read_bytes()))
