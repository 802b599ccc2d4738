"""A recipe's section and token rows as a trainer: model, arguments, batching, saved steps."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PrinterCallback, TrainingArguments
from transformers.distributed import DistributedConfig

from fusion.attention import BY_SPAN, separates_sequences
from fusion.batching import Batching, Shape
from fusion.chat import load_tokenizer
from fusion.checkpoints import local_copy
from fusion.errors import BadInputError
from fusion.logprobs import add_reply_head
from fusion.recipe import Dpo, Lora, Training
from jobs.passes import StepRows
from jobs.step_keeper import LogWriter, StepKeeper, trackers
from jobs.step_trainer import Objective, PreferenceObjective, StepTrainer, SupervisedObjective
from jobs.training_worker import WorkerConfig

DEEPSPEED_STAGES = {"zero2": 2, "zero3": 3}


def total_steps(rows: pa.Table, training: Training) -> int:
    """Optimiser steps from start to end."""
    num_rows: int = rows.num_rows
    return math.ceil(training.epochs * math.ceil(num_rows / training.batch_size))


def build_trainer(
    config: WorkerConfig, rows: pa.Table, held_out: pa.Table | None, resumed: Path | None
) -> StepTrainer:
    """The trainer of one worker; `resumed` is the folder of the step it goes on from."""
    section = config.training
    arguments = _arguments(config)
    model = _load_model(config, resumed)
    batching = _batching(section, model)
    if batching == "packed":
        model.set_attn_implementation(BY_SPAN)
    shape = Shape(section.batch_size, arguments.world_size, section.micro_batch_tokens, batching)
    objective: Objective = (
        PreferenceObjective(section) if isinstance(section, Dpo) else SupervisedObjective()
    )
    keeper = StepKeeper(
        config.steps,
        keep=max(2, section.best_of),
        leads_node=arguments.local_process_index == 0,
    )
    trainer = StepTrainer(
        model=get_peft_model(model, _adapters(section.lora)) if section.lora else model,
        args=arguments,
        processing_class=load_tokenizer(local_copy(config.model), config.revision),
        objective=objective,
        rows=StepRows(rows, shape),
        held_out=StepRows(held_out, shape) if held_out is not None and held_out.num_rows else None,
        shape=shape,
        fsdp2=section.strategy == "fsdp2",
        callbacks=[
            keeper,
            LogWriter(config.log),
            *trackers(section.trackers, config.log, is_first=arguments.process_index == 0),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _batching(section: Training, model: Any) -> Batching:
    """The recipe's; where it leaves that open, packed for a model that allows it.

    Raises:
        BadInputError: the recipe asks for packed, and the model mixes tokens outside attention.
    """
    can_pack = separates_sequences(model)
    if section.batching == "auto":
        return "packed" if can_pack else "bucketed"
    if section.batching == "packed" and not can_pack:
        raise BadInputError(
            f"{type(model).__name__} cannot keep sequences apart that lie end to end, so batching "
            "cannot be packed; set it to bucketed, or leave it to auto."
        )
    return section.batching


def _load_model(config: WorkerConfig, resumed: Path | None) -> Any:
    """The model to train, made after the arguments, which tell ZeRO-3 to shard."""
    section = config.training
    if section.strategy in DEEPSPEED_STAGES and dist.is_initialized():
        import deepspeed  # takes seconds, and compiles on its first use

        deepspeed.init_distributed()  # ZeRO-3 shards while loading and must know all workers
    is_fsdp2 = section.strategy == "fsdp2"
    model = AutoModelForCausalLM.from_pretrained(
        str(resumed) if resumed and is_fsdp2 else local_copy(config.model),
        revision=config.revision,
        dtype=torch.bfloat16 if section.arithmetic == "bf16" else torch.float32,
        **(_fsdp2(section) if is_fsdp2 and _world_size() > 1 else {}),
    )
    _disable_dropout(model)
    add_reply_head(model)
    return model


def _adapters(lora: Lora) -> LoraConfig:
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.modules) or "all-linear",
        task_type="CAUSAL_LM",
    )


def _fsdp2(section: Training) -> dict[str, Any]:
    mixed = section.precision == "bf16"
    sharding = DistributedConfig(fsdp_size=_world_size(), fsdp_mixed_precision=mixed)
    return {"distributed_config": sharding}


def _disable_dropout(model: Any) -> None:
    """Policy and reference are compared, so neither may be noisy."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0


def _arguments(config: WorkerConfig) -> TrainingArguments:
    """What transformers' Trainer is told; a step of ours is one batch of its."""
    section, zero = config.training, DEEPSPEED_STAGES.get(config.training.strategy)
    return TrainingArguments(
        output_dir=str(config.scratch / "trainer"),
        num_train_epochs=section.epochs,
        per_device_train_batch_size=max(1, section.batch_size // _world_size()),
        gradient_accumulation_steps=1,
        learning_rate=section.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=section.warmup_ratio,
        weight_decay=section.weight_decay,
        max_grad_norm=section.max_grad_norm,
        seed=section.seed,
        bf16=section.precision == "bf16",
        activation_checkpointing=section.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        ddp_find_unused_parameters=False,
        use_cpu=not config.on_gpu,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=section.save_steps,
        save_only_model=section.strategy == "fsdp2",  # the step trainer saves the rest
        run_name=config.name,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        deepspeed=deepspeed_config(zero) if zero else None,
    )


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def deepspeed_config(stage: int) -> dict[str, Any]:
    """DeepSpeed's JSON for a ZeRO stage; the optimiser is torch's, so nothing is compiled."""
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
