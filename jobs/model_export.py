"""The trained model as plain Hugging Face files: the best of the last saved steps, and its card."""

import json
import shutil
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from fusion.cards import training_card
from fusion.chat import load_tokenizer
from fusion.checkpoints import (
    CHOICE_FILE,
    best_step,
    committed_steps,
    fetch_step,
    local_copy,
    step_folder,
    step_note,
    upload,
)
from jobs.training_worker import WorkerConfig


def export_model(config: WorkerConfig, num_rows: int) -> None:
    """Write the log, then the model of the best step to its checkpoint.

    One worker does it alone: what ZeRO-3 set up, by which a model that is loaded is shared out to
    all workers, ends here.
    """
    unset_hf_deepspeed_config()
    steps = committed_steps(config.steps)
    last = _log_of(config, steps[-1])
    config.log.write_text("".join(json.dumps(entry) + "\n" for entry in last))
    steps = steps[-config.training.best_of :]
    candidates = [_scores(step_note(step)) for step in steps]
    chosen = best_step(candidates)
    final = config.scratch / "final"
    shutil.rmtree(final, ignore_errors=True)
    _plain_model(config, steps[chosen]).save_pretrained(final)
    load_tokenizer(local_copy(config.model), config.revision).save_pretrained(final)
    choice = {"chosen": candidates[chosen]["step"], "candidates": candidates}
    (final / CHOICE_FILE).write_text(json.dumps(choice, indent=2) + "\n")
    card = training_card(
        name=config.name,
        start=config.model,
        revision=config.revision,
        training=config.training,
        num_rows=num_rows,
        lineage=config.lineage,
        log=last,
        choice=choice,
    )
    (final / "README.md").write_text(card)
    upload(final, config.checkpoint)


def _scores(note: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in note.items() if k == "step" or k.startswith("held_out/")}


def _log_of(config: WorkerConfig, step: Any) -> list[dict[str, Any]]:
    fetch_step(step, config.scratch)
    state = json.loads((step_folder(step, config.scratch) / "trainer_state.json").read_text())
    log: list[dict[str, Any]] = state["log_history"]
    return log


def _plain_model(config: WorkerConfig, step: Any) -> Any:
    """The step's weights, adapters merged in, in the precision that the recipe asks for."""
    fetch_step(step, config.scratch)
    folder = step_folder(step, config.scratch)
    dtype = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
    if not config.training.lora:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    start = AutoModelForCausalLM.from_pretrained(
        local_copy(config.model), revision=config.revision, dtype=dtype
    )
    return PeftModel.from_pretrained(start, str(folder)).merge_and_unload()
