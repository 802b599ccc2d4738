"""The trainer's step: one objective however it is cut into passes, and TRL's where TRL has it."""

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from fusion.batching import Shape, plan_step
from fusion.chat import load_tokenizer
from fusion.checkpoints import committed_steps, is_complete, step_folder, step_note
from fusion.logprobs import add_reply_head, reply_logprobs
from fusion.recipe import Dpo, Sft
from jobs.model_export import export_model
from jobs.passes import StepRows
from jobs.step_trainer import PreferenceObjective
from jobs.trainer_setup import build_trainer
from tests.training_data import TARGET, pair_table, sft_table, worker_config

pytestmark = pytest.mark.integration

ROWS = 12
COMMON = {"batch_size": ROWS, "precision": "fp32", "gradient_checkpointing": False}


@pytest.fixture(autouse=True)
def _scratch_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def step_of(folder: Path, stage: str, model: Path = TARGET, **keys):
    """Loss and gradients of the first step over all rows, as the trainer makes them."""
    section = (Dpo if stage == "dpo" else Sft)(**COMMON, **keys)
    table = pair_table(ROWS) if stage == "dpo" else sft_table(ROWS)
    config = replace(worker_config(folder, section), model=str(model))
    trainer = build_trainer(config, table, None, None)
    (step,) = trainer.get_train_dataloader()
    loss = trainer.training_step(trainer.model, step)
    return loss.item(), _gradients(trainer.model), len(step.passes)


def _gradients(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("stage", ["sft", "dpo"])
@pytest.mark.parametrize("batching", ["padded", "bucketed", "packed"])
def test_batching_changes_neither_loss_nor_gradients(tmp_path, stage, batching):
    whole = step_of(tmp_path, stage, batching="padded", micro_batch_tokens=100_000)
    parts = step_of(tmp_path, stage, batching=batching, micro_batch_tokens=250)
    assert whole[2] == 1 < parts[2]
    assert parts[0] == pytest.approx(whole[0], abs=1e-5)
    assert torch.allclose(parts[1], whole[1], atol=1e-5)


def test_gemma_2_trains_packed_and_padded_alike(tmp_path):
    """PyTorch's own attention has no cap on scores, which Gemma 2 wants."""
    loss, gradients, _ = step_of(tmp_path, "sft", TARGET.parent / "gemma")
    padded = step_of(tmp_path, "sft", TARGET.parent / "gemma", batching="padded")
    assert loss == pytest.approx(padded[0], abs=1e-5)
    assert torch.allclose(gradients, padded[1], atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "trls"), [("ln_dpo", "sigmoid_norm"), ("dpo", "sigmoid"), ("ipo", "ipo")]
)
def test_loss_and_gradients_are_those_of_trl(tmp_path, ours, trls):
    beta = 0.1
    loss, gradients, _ = step_of(tmp_path, "dpo", loss=ours, beta=beta)
    trl_loss, trl_gradients = _trl_step(tmp_path, trls, beta)
    assert loss == pytest.approx(trl_loss, abs=1e-5)
    largest = trl_gradients.abs().max().item()  # 15 with ipo, 0.2 with the others
    assert torch.allclose(gradients, trl_gradients, atol=1e-5 * max(1, largest))


def _trl_step(folder: Path, loss: str, beta: float) -> tuple[float, torch.Tensor]:
    """What TRL's DPO trainer makes of the same pairs in one padded batch."""

    class StoredReferenceTrainer(TokenTrainer):
        def _precompute_ref_logps(self, dataset, *_, **__):
            return dataset

    keys = {"loss_type": [loss], "beta": beta, "precompute_ref_log_probs": True}
    trainer = _trl(StoredReferenceTrainer, folder, pair_table(ROWS), **keys)
    (batch,) = trainer.get_train_dataloader()
    made = trainer.compute_loss(trainer.model, batch)
    made.backward()
    return made.item(), _gradients(trainer.model)


class TokenTrainer(DPOTrainer):
    """Takes pairs that are tokens already."""

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset


def _trl(kind, folder: Path, table, **keys):
    arguments = DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=ROWS,
        max_length=None,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        **keys,
    )
    columns = ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps")
    return kind(
        AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset(table.select([c for c in columns if c in table.column_names])),
        processing_class=load_tokenizer(str(TARGET)),
    )


def test_a_stored_reference_makes_the_steps_of_trl_with_a_live_one(tmp_path):
    schedule = {"learning_rate": 1e-3, "max_grad_norm": 1.0, "beta": 2.0}
    stored = _with_own_reference(pair_table(ROWS))
    section = Dpo(**COMMON, **schedule, epochs=4, warmup_ratio=0.1)
    ours = build_trainer(worker_config(tmp_path, section), stored, None, None)
    ours.train()
    live = _trl(
        TokenTrainer,
        tmp_path,
        pair_table(ROWS).drop_columns(["ref_chosen_logps", "ref_rejected_logps"]),
        loss_type=["sigmoid_norm"],
        num_train_epochs=4,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        **schedule,
    )
    live.train()
    assert ours.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert len(_steps(ours)) == 4
    for one, other in zip(_steps(ours), _steps(live), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def _with_own_reference(table):
    """The log-probs under the target itself, as the stage reference computes them."""
    model = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32).eval()
    add_reply_head(model)
    rows, device = table.to_pylist(), torch.device("cpu")
    for side in ("chosen", "rejected"):
        replies = [(row["prompt_ids"], [row[f"{side}_ids"]]) for row in rows]
        found = reply_logprobs(model, replies, tokens=500, device=device)
        place = table.column_names.index(f"ref_{side}_logps")
        table = table.set_column(place, f"ref_{side}_logps", [found])
    return table


def test_two_workers_sum_up_to_one(tmp_path):
    """The passes of both workers, one after the other in one process, give the same gradients."""
    section = Dpo(**COMMON, batching="bucketed", micro_batch_tokens=400)
    trainer = build_trainer(worker_config(tmp_path, section), pair_table(ROWS), None, None)
    (alone,) = trainer.get_train_dataloader()
    loss = trainer.training_step(trainer.model, alone).item()
    expected = _gradients(trainer.model)
    trainer.model.zero_grad()
    shape = Shape(ROWS, 2, 400, "bucketed")
    rows = StepRows(pair_table(ROWS), shape)
    step = plan_step(range(ROWS), rows.sequences, shape)
    losses = [trainer.training_step(trainer.model, rows[(step, rank)]).item() for rank in (0, 1)]
    assert sum(losses) == pytest.approx(loss, abs=1e-5)
    assert torch.allclose(_gradients(trainer.model), expected, atol=1e-5)


def test_figures_are_those_of_the_loss_that_is_trained(tmp_path):
    section = Dpo(**COMMON, beta=2.0)
    trainer = build_trainer(worker_config(tmp_path, section), pair_table(ROWS), None, None)
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["rewards/margins"] == pytest.approx(
        first["rewards/chosen"] - first["rewards/rejected"], abs=1e-5
    )
    assert 0 <= first["rewards/accuracies"] <= 1
    assert 0 <= first["padding"] < 1
    assert first["tokens_per_second"] > 0


def _finished(folder: Path, *, table=None, resume_at: int | None = None, **keys):
    """A training of 12 pairs in 6 steps; from a saved step on where one is given."""
    section = Dpo(**{**COMMON, "batch_size": 4, "epochs": 2, "save_steps": 2, **keys})
    config = worker_config(folder, section)
    resumed = config.steps / f"{resume_at:08d}" if resume_at else None
    path = step_folder(resumed, config.scratch) if resumed else None
    table = table or pair_table(ROWS)
    trainer = build_trainer(config, table, pair_table(4), path)
    trainer.train(resume_from_checkpoint=path and str(path))
    return config, trainer


def _steps(trainer) -> list[tuple[float, float]]:
    return [(e["loss"], e["grad_norm"]) for e in trainer.state.log_history if "grad_norm" in e]


@pytest.mark.parametrize("keys", [{}, {"lora": {"rank": 4, "dropout": 0.2}}, {"strategy": "fsdp2"}])
def test_a_training_that_goes_on_makes_the_steps_it_would_have_made(tmp_path, keys):
    """Also the draws of dropout are the same, and so are the weights."""
    keys = {"beta": 0.05, "learning_rate": 1e-3, "best_of": 9, **keys}
    _, whole = _finished(tmp_path, **keys)
    _, resumed = _finished(tmp_path, resume_at=2, **keys)
    assert _steps(resumed) == _steps(whole)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_model_is_that_of_the_best_saved_step_and_plain(tmp_path):
    config, _ = _finished(tmp_path, learning_rate=1e-3, beta=0.05, best_of=3, lora={"rank": 4})
    export_model(config, ROWS)
    folder = Path(config.checkpoint.path)
    choice = json.loads((folder / "choice.json").read_text())
    assert [row["step"] for row in choice["candidates"]] == [2, 4, 6]
    losses = {row["step"]: row["held_out/loss"] for row in choice["candidates"]}
    assert choice["chosen"] == min(losses, key=losses.__getitem__)
    model = AutoModelForCausalLM.from_pretrained(folder)
    start = AutoModelForCausalLM.from_pretrained(TARGET)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in start.named_parameters()]
    assert any(
        not torch.equal(one.float(), other.float())
        for one, other in zip(model.parameters(), start.parameters(), strict=True)
    )
    assert load_tokenizer(str(folder)).chat_template
    assert "held_out/loss" in (folder / "README.md").read_text()
    assert is_complete(config.checkpoint)


def test_training_stops_before_it_saves_what_is_not_a_number(tmp_path):
    table = pair_table(ROWS)
    place = table.column_names.index("ref_chosen_logps")
    values = [float("nan") if row == 0 else -7.0 for row in range(ROWS)]
    table = table.set_column(place, "ref_chosen_logps", [values])
    config, trainer = _finished(tmp_path, table=table, save_steps=1)
    assert re.fullmatch(r"at step \d .* is nan", trainer.stopped)
    saved = [step_note(step)["step"] for step in committed_steps(config.steps)]
    assert saved == list(range(1, trainer.state.global_step))[-2:]


def test_training_stops_where_the_policy_leaves_the_reference(tmp_path):
    _, trainer = _finished(tmp_path, max_kl=1e-9)
    assert "above max_kl" in trainer.stopped


def test_figures_go_to_tensorboard_beside_the_log(tmp_path):
    _finished(tmp_path, trackers=["tensorboard"])
    assert list((tmp_path / "log").glob("events.out.tfevents.*"))


def test_training_stops_where_replies_would_become_short():
    objective = PreferenceObjective(Dpo(min_length=0.5))
    start = {"length/expected": 0.9}
    assert objective.objection({"length/expected": 0.5}, start) is None
    assert "below min_length" in objective.objection({"length/expected": 0.4}, start)
