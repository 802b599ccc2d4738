"""transformers' Trainer with a step of ours: all forward passes of a step, one objective."""

import contextlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.distributed.checkpoint import (
    load_optimizer_distributed,
    save_optimizer_distributed,
)

from fusion.batching import Shape, plan_step
from fusion.logprobs import call_reply_head, expected_lengths, sums_by_sequence
from fusion.losses import PairLogps, preference_loss, supervised_loss
from fusion.recipe import Dpo
from jobs.passes import Pass, StepRows, StepSampler, WorkerStep, pair_logps

Sums = dict[str, Tensor | float]


class Objective(ABC):
    """What a pass adds to the loss and to the figures of its step."""

    @abstractmethod
    def __call__(
        self, logprobs: Tensor, ended: Tensor, made: Pass, step: WorkerStep
    ) -> tuple[Tensor, Sums]:
        """The pass's share of the step's loss, and sums over its rows for `figures`."""

    @abstractmethod
    def figures(self, sums: dict[str, float], step: WorkerStep) -> dict[str, float]:
        """What is logged of a step, from the sums over all its passes and workers."""

    def objection(self, figures: dict[str, float], start: dict[str, float]) -> str | None:
        """Why training must not go on after a step with these figures; None where it may.

        `start` has the figures of the first step.
        """
        unsound = [name for name, value in figures.items() if not math.isfinite(value)]
        return f"{unsound[0]} is {figures[unsound[0]]}" if unsound else None


class SupervisedObjective(Objective):
    """Negative log-likelihood, the mean over all reply tokens of a step."""

    def __call__(
        self, logprobs: Tensor, ended: Tensor, made: Pass, step: WorkerStep
    ) -> tuple[Tensor, Sums]:
        """The pass's share of the mean."""
        return -logprobs.sum() / step.num_tokens, {}

    def figures(self, sums: dict[str, float], step: WorkerStep) -> dict[str, float]:
        """The mean length of a reply."""
        return {"length/replies": step.num_tokens / step.num_rows}


class PreferenceObjective(Objective):
    """A preference loss, the mean over a step's pairs, and a supervised term over its tokens."""

    def __init__(self, section: Dpo) -> None:
        self._section = section

    def __call__(
        self, logprobs: Tensor, ended: Tensor, made: Pass, step: WorkerStep
    ) -> tuple[Tensor, Sums]:
        """The pass's share of the means."""
        section = self._section
        policy = pair_logps(sums_by_sequence(logprobs, made.batch), made.batch.lengths)
        pairs = preference_loss(
            section.loss,
            policy,
            made.reference,
            beta=section.beta,
            target_margin=section.target_margin,
        )
        loss = pairs.loss.sum() / step.num_rows
        if section.sft_weight:
            loss = loss + section.sft_weight * supervised_loss(policy).sum() / step.num_tokens
        margins = pairs.chosen_reward - pairs.rejected_reward
        sums: Sums = {
            "rewards/chosen": pairs.chosen_reward.sum(),
            "rewards/rejected": pairs.rejected_reward.sum(),
            "rewards/margins": margins.sum(),
            "rewards/accuracies": (margins > 0).sum(),
            "logps/chosen": policy.chosen.sum(),
            "logps/rejected": policy.rejected.sum(),
            "length/chosen": policy.chosen_tokens.sum(),
            "length/rejected": policy.rejected_tokens.sum(),
            "length/expected": expected_lengths(ended, made.batch).chunk(2)[0].sum(),
        }
        return loss, sums | _divergence(policy, made.reference)

    def figures(self, sums: dict[str, float], step: WorkerStep) -> dict[str, float]:
        """Means over pairs; kl is one over tokens, the expected length a share of the length."""
        means = {name: total / step.num_rows for name, total in sums.items()}
        means["length/expected"] = sums["length/expected"] / sums["length/chosen"]
        if "kl" in sums:
            means["kl"] = sums["kl"] / sums["length/chosen"]
        return means

    def objection(self, figures: dict[str, float], start: dict[str, float]) -> str | None:
        """Also where the policy has left the reference, or would end replies too soon."""
        section = self._section
        if figures.get("kl", 0.0) > section.max_kl:
            return f"kl is {figures['kl']:.2f} nats a token, above max_kl {section.max_kl:g}"
        length = figures["length/expected"] / start["length/expected"]
        if length < section.min_length:
            return (
                f"replies would end at {length:.0%} of their length at the start, below min_length"
            )
        return super().objection(figures, start)


def _divergence(policy: PairLogps, reference: PairLogps | None) -> Sums:
    """How much less likely the policy finds the chosen tokens than the reference does, summed.

    A token's mean is the divergence KL(reference || policy) as far as chosen replies are such as
    the reference would give; it is negative while the policy learns them.
    """
    return {} if reference is None else {"kl": (reference.chosen - policy.chosen).sum()}


class StepTrainer(Trainer):
    """Trains on `StepRows`; one batch of the base class is one step of ours.

    `stopped` says why training ended early: nothing was saved from then on.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        rows: StepRows,
        held_out: StepRows | None,
        shape: Shape,
        fsdp2: bool,
        **arguments: Any,
    ) -> None:
        super().__init__(train_dataset=rows, **arguments)
        self.stopped: str | None = None
        self._held_out = held_out
        self._objective = objective
        self._shape = shape
        self._is_fsdp2 = fsdp2
        self._sampler = StepSampler(rows, shape, seed=self.args.seed, rank=self.args.process_index)
        self._figures: dict[str, float] = {}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One item a step; every worker plans the whole step and makes its own part."""
        return DataLoader(
            self.train_dataset, batch_sampler=self._sampler, collate_fn=lambda items: items[0]
        )

    def get_batch_samples(self, epoch_iterator: Any, *_: Any) -> tuple[list[WorkerStep], None]:
        """The next step; what it is divided by is in it."""
        return [next(epoch_iterator)], None

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def _run_epoch(self, **arguments: Any) -> None:
        self._sampler.epoch = arguments["epoch"]
        super()._run_epoch(**arguments)

    def training_step(self, model: Any, inputs: WorkerStep, *_: Any, **__: Any) -> Tensor:
        """Forward and backward of all passes of a step; the loss whose mean over workers it is."""
        model.train()
        started = time.perf_counter()
        loss = torch.zeros((), device=self.args.device)
        sums = _Sums(self.args.device)
        for index, made in enumerate(inputs.passes):
            with self._gradients_kept_back(model, last=index == len(inputs.passes) - 1):
                share, counted = self._forward(model, made, inputs)
                self._backward(share * self.args.world_size)
            loss += share.detach() * self.args.world_size
            sums.add(counted)
        self._note_step(sums.over_workers(), inputs, time.perf_counter() - started)
        return loss

    def _forward(self, model: Any, made: Pass, step: WorkerStep) -> tuple[Tensor, Sums]:
        device = self.args.device
        batch = made.batch.to(device)
        reference = made.reference and made.reference.to(device)
        with self.compute_loss_context_manager():
            logprobs, ended = call_reply_head(model, batch)
        moved = Pass(batch, made.weight, reference)
        share, counted = self._objective(logprobs, ended, moved, step)
        counted |= {"loss": share, "tokens": batch.num_tokens}
        counted |= {"padding": batch.num_padding, "computed": batch.size}
        return share * made.weight, {k: v * made.weight for k, v in counted.items()}

    @contextlib.contextmanager
    def _gradients_kept_back(self, model: Any, *, last: bool) -> Iterator[None]:
        """Workers exchange gradients in the last pass alone; DeepSpeed also steps then."""
        self.accelerator.gradient_state._set_sync_gradients(last)
        if last or self.is_deepspeed_enabled:
            yield
        elif self._is_fsdp2 and self.args.world_size > 1:
            with self._defer_fsdp_gradient_reduction():
                yield
        else:
            with self.accelerator.no_sync(model):
                yield

    def _backward(self, loss: Tensor) -> None:
        if self.is_deepspeed_enabled:
            self.accelerator.backward(loss, scale_wrt_gas=False)
        else:
            self.accelerator.backward(loss)

    def _note_step(self, sums: dict[str, float], step: WorkerStep, seconds: float) -> None:
        """Keep the figures for the log; every worker has the same, so all stop at once."""
        loss, tokens = sums.pop("loss"), sums.pop("tokens")
        padding = sums.pop("padding") / sums.pop("computed")
        self._figures = self._objective.figures(sums, step)
        start = self.state.log_history[0] if self.state.log_history else self._figures
        self._stop_where(self._objective.objection(self._figures | {"loss": loss}, start))
        self._figures |= {"tokens_per_second": tokens / seconds, "padding": padding}

    def _stop_where(self, objection: str | None) -> None:
        if objection and not self.stopped:
            self.stopped = f"at step {self.state.global_step + 1} {objection}"
            self.control.should_training_stop = True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The figures of the step beside those of the base class."""
        if "grad_norm" in logs:
            logs |= self._figures
            if not math.isfinite(logs["grad_norm"]):
                self._stop_where(f"grad_norm is {logs['grad_norm']}")
        super().log(logs, start_time)

    def judge(self) -> dict[str, float]:
        """The loss on the rows kept back, and what else the objective counts of them."""
        assert self._held_out is not None
        shape = replace(self._shape, batch_size=len(self._held_out))
        step = plan_step(range(len(self._held_out)), self._held_out.sequences, shape)
        own = self._held_out[(step, self.args.process_index)]
        self.model_wrapped.eval()
        sums = _Sums(self.args.device)
        with torch.no_grad():
            for made in own.passes:
                sums.add(self._forward(self.model_wrapped, made, own)[1])
        totals = sums.over_workers()
        judged = {"loss": totals.pop("loss")} | self._objective.figures(totals, own)
        kept = ("loss", "rewards/accuracies", "rewards/margins")
        return {f"held_out/{name}": judged[name] for name in kept if name in judged}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.stopped:
            return
        if self._held_out is not None:
            self.log(self.judge())
        super()._save_checkpoint(model, trial)
        if self._is_fsdp2:
            self._save_by_name(f"{self.args.output_dir}/checkpoint-{self.state.global_step}")

    def _save_by_name(self, folder: str) -> None:
        """What the base class cannot save under FSDP2: the state of optimiser and schedule.

        It is kept by the names of parameters, so that any number of workers can take it up.
        """
        save_optimizer_distributed(self.model, self.optimizer.optimizer, f"{folder}/optimizer")
        self._save_rng_state(folder)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), f"{folder}/scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self._is_fsdp2 or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_optimizer_distributed(self.model, self.optimizer.optimizer, f"{checkpoint}/optimizer")
        state = torch.load(f"{checkpoint}/scheduler.pt", weights_only=True)
        self.lr_scheduler.load_state_dict(state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Under FSDP2 the model was loaded from the checkpoint already."""
        if not self._is_fsdp2:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


class _Sums:
    """Sums by name over passes, then over workers in one exchange."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}

    def add(self, counted: Sums) -> None:
        for name, value in counted.items():
            value = torch.as_tensor(value, dtype=torch.float64, device=self._device).detach()
            self._sums[name] = self._sums.get(name, 0) + value

    def over_workers(self) -> dict[str, float]:
        names = sorted(self._sums)
        together = torch.stack([self._sums[name] for name in names])
        if dist.is_initialized():
            dist.all_reduce(together)
        return dict(zip(names, together.tolist(), strict=True))
