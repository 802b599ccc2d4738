"""What happens beside the steps: they are saved into the store, and the log can be read."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

from fusion.checkpoints import commit_step, committed_steps, delete_step, upload_step
from fusion.store import Location

LOG_EVERY_S = 10.0


class StepKeeper(TrainerCallback):
    """Moves what the trainer saved into the store, where it counts once it is whole."""

    def __init__(self, steps: Location, *, keep: int, leads_node: bool) -> None:
        self._steps = steps
        self._keep = keep
        self._leads_node = leads_node

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Each node uploads its files; then the first worker commits and deletes what is old."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if not _on_any_worker(folder.exists()):
            return  # a stopped training saves nothing
        step = self._steps / f"{state.global_step:08d}"
        if self._leads_node:
            upload_step(folder, step)
            shutil.rmtree(folder)
        _barrier()
        if state.is_world_process_zero:
            judged = {k: v for k, v in state.log_history[-1].items() if k.startswith("held_out/")}
            note = {"step": state.global_step, "workers": args.world_size}
            commit_step(step, {**note, **judged})
            for old in committed_steps(self._steps)[: -self._keep]:
                delete_step(old)
        _barrier()


class LogWriter(TrainerCallback):
    """Writes the steps logged so far as JSON lines, every few seconds and at the end."""

    def __init__(self, log: Location) -> None:
        self._log = log
        self._written_at = 0.0

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write, unless that was done a moment ago."""
        if state.is_world_process_zero and time.monotonic() - self._written_at > LOG_EVERY_S:
            self._write(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the last steps too."""
        if state.is_world_process_zero:
            self._write(state)

    def _write(self, state: Any) -> None:
        self._log.write_text("".join(json.dumps(entry) + "\n" for entry in state.log_history))
        self._written_at = time.monotonic()


def trackers(names: Sequence[str], log: Location, *, is_first: bool) -> list[TrainerCallback]:
    """What the first worker tells figures to; TensorBoard's files lie beside the log."""
    made: list[TrainerCallback] = []
    if is_first and "tensorboard" in names:
        from torch.utils.tensorboard import SummaryWriter

        made.append(TensorBoardCallback(SummaryWriter(log.path.removesuffix(".jsonl"))))
    if is_first and "mlflow" in names:
        made.append(MLflowCallback())
    if is_first and "wandb" in names:
        made.append(WandbCallback())
    return made


def _on_any_worker(value: bool) -> bool:
    """Whether it holds for one of the workers; all have come here when it returns."""
    if not dist.is_initialized():
        return value
    values: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return any(values)


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
