"""Training on Ray Train: the worker around TRL's trainers that sft and dpo share."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from cluster.connection import Holdings
from fusion.checkpoints import local_copy, upload
from fusion.errors import CrucibleError
from fusion.recipe import Dpo, Sft, Training
from fusion.store import Location

ROWS_FILE = "rows.parquet"


def train(
    *,
    stage: str,
    model: str,
    revision: str | None,
    training: Training,
    rows: pa.Table,
    checkpoint: Location,
    log: Location,
    holdings: Holdings,
) -> None:
    """Train a model on token rows with Ray Train, to a complete checkpoint and a log.

    Args:
        stage: sft or dpo.
        model: Where training starts: a local folder, s3:// or a hub id.
        revision: Revision of a hub id.
        training: The recipe's section.
        rows: `fusion.training_rows.SFT_ROWS`, or `PAIR_ROWS` with reference log-probs.
        checkpoint: Where the trained model goes.
        log: Where the JSON lines of the logged steps go.
        holdings: What the cluster holds.

    Raises:
        CrucibleError: a worker failed.
    """
    work = checkpoint / "work"
    _write_rows(work / ROWS_FILE, rows)
    on_gpu = holdings.gpus > 0
    config = {
        "stage": stage,
        "model": model,
        "revision": revision,
        "training": training.model_dump(),
        "work": work,
        "checkpoint": checkpoint,
        "log": log,
        "on_gpu": on_gpu,
        "threads": max(1, holdings.cores // training.workers),
    }
    with tempfile.TemporaryDirectory(prefix="crucible-train-") as scratch:
        trainer = TorchTrainer(
            _worker,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=training.workers, use_gpu=on_gpu),
            run_config=RunConfig(
                name=stage, storage_path=scratch, failure_config=FailureConfig(max_failures=0)
            ),
        )
        try:
            trainer.fit()
        except Exception as error:  # Ray wraps whatever a worker raised
            raise CrucibleError(f"Training stage {stage} failed: {_cause(error)}") from error
    work.delete()


def _cause(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _write_rows(location: Location, rows: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    location.write_bytes(sink.getvalue())


def _worker(config: dict[str, Any]) -> None:
    """One Ray Train worker: build the trainer, train, and on rank 0 hand over the model."""
    import ray.train
    import torch
    from transformers.trainer_utils import get_last_checkpoint

    if not config["on_gpu"]:
        torch.set_num_threads(config["threads"])
    output = _output_folder(config)
    build = build_dpo_trainer if config["stage"] == "dpo" else build_sft_trainer
    trainer = build(config, _read_rows(config["work"] / ROWS_FILE), str(output))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output) if output.exists() else None)
    final = output / "final"
    trainer.save_model(str(final))
    if ray.train.get_context().get_world_rank() == 0:
        trainer.processing_class.save_pretrained(str(final))
        upload(final, config["checkpoint"])
        history = [json.dumps(entry) for entry in trainer.state.log_history]
        config["log"].write_text("\n".join(history) + "\n")
    torch.distributed.barrier()


def _output_folder(config: dict[str, Any]) -> Path:
    """Where checkpoints go while training: beside the rows where that is a folder all share.

    On an object store they stay on the worker's disk, and a killed training starts afresh.
    """
    work: Location = config["work"]
    if work.scheme == "file":
        return Path(work.path) / "trainer"
    return Path(tempfile.mkdtemp(prefix="crucible-train-"))


def _read_rows(location: Location) -> Any:
    from datasets import Dataset

    return Dataset(pq.read_table(pa.BufferReader(location.read_bytes())))


def build_sft_trainer(config: dict[str, Any], rows: Any, output: str) -> Any:
    """TRL's SFT trainer over token rows: labels are given, nothing is cut or packed."""
    from trl import SFTConfig, SFTTrainer

    section = Sft(**config["training"])
    arguments = SFTConfig(
        **_arguments(config, section, output),
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    model, tokenizer = _load(config, arguments)
    return SFTTrainer(model, args=arguments, train_dataset=rows, processing_class=tokenizer)


def build_dpo_trainer(config: dict[str, Any], rows: Any, output: str) -> Any:
    """TRL's DPO trainer over token rows with stored reference log-probs.

    The loss is TRL's `sigmoid_norm` (length-normalised, method.md 1.8) or `sigmoid`.
    """
    from trl import DPOConfig, DPOTrainer

    class StoredReferenceTrainer(DPOTrainer):
        """Takes tokens and reference log-probs as they are stored."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    section = Dpo(**config["training"])
    loss = "sigmoid_norm" if section.length_normalised else "sigmoid"
    mixed = section.sft_weight > 0
    arguments = DPOConfig(
        **_arguments(config, section, output),
        max_length=None,
        beta=section.beta,
        loss_type=[loss, "sft"] if mixed else [loss],
        loss_weights=[1.0, section.sft_weight] if mixed else None,
        precompute_ref_log_probs=True,
    )
    model, tokenizer = _load(config, arguments)
    return StoredReferenceTrainer(
        model, args=arguments, train_dataset=rows, processing_class=tokenizer
    )


def _load(config: dict[str, Any], arguments: Any) -> tuple[Any, Any]:
    """Model and tokenizer; after the arguments, which tell ZeRO-3 to shard while loading."""
    import torch
    from transformers import AutoModelForCausalLM

    from fusion.chat import load_tokenizer

    path = local_copy(config["model"])
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    model = AutoModelForCausalLM.from_pretrained(path, revision=config["revision"], dtype=dtype)
    return model, load_tokenizer(path, config["revision"])


def _arguments(config: dict[str, Any], section: Training, output: str) -> dict[str, Any]:
    """What transformers' TrainingArguments get from a recipe's section."""
    on_gpu = config["on_gpu"]
    per_step = section.micro_batch_size * section.workers
    return {
        "output_dir": output,
        "num_train_epochs": section.epochs,
        "per_device_train_batch_size": section.micro_batch_size,
        "gradient_accumulation_steps": max(1, section.batch_size // per_step),
        "learning_rate": section.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": section.warmup_ratio,
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
        "seed": section.seed,
        "bf16": section.precision == "bf16",
        "gradient_checkpointing": section.gradient_checkpointing,
        "use_cpu": not on_gpu,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": section.save_steps,
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": on_gpu,
        **({"deepspeed": deepspeed_config(section.strategy)} if section.strategy != "ddp" else {}),
    }


def deepspeed_config(strategy: str) -> dict[str, Any]:
    """DeepSpeed's JSON for ZeRO-2 or ZeRO-3; the optimiser is torch's, so nothing is compiled."""
    stage = {"zero2": 2, "zero3": 3}[strategy]
    zero: dict[str, Any] = {"stage": stage}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
    }
