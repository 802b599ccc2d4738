"""How the target learns: fine-tuning and preference optimisation."""

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from fusion.recipe.section import Section, Seed, Share

LossName = Literal["ln_dpo", "dpo", "ipo", "simpo", "orpo"]
_PACE = {"workers", "min_workers", "micro_batch_tokens", "batching", "trackers", "restarts"}
_REFERENCE_FREE: tuple[LossName, ...] = ("simpo", "orpo")


class Lora(Section):
    """Low-rank adapters instead of all weights; the final model has them merged in."""

    rank: PositiveInt = Field(16, description="Width of the adapters.")
    alpha: PositiveInt = Field(32, description="Their scale is alpha / rank.")
    dropout: Share = Field(0.0, description="Share of an adapter's inputs left out in training.")
    modules: tuple[str, ...] = Field(
        (), description="Names of the layers that get one; by default all linear ones but the head."
    )


class Training(Section):
    """What fine-tuning and preference optimisation share."""

    data: str | None = Field(None, description="An existing data set in TRL's format instead.")
    data_revision: str | None = Field(None, description="A commit or tag; needed for hf://.")
    epochs: PositiveFloat = Field(1.0, description="Passes over the rows.")
    batch_size: PositiveInt = Field(128, description="Rows a step, over all workers.")
    micro_batch_tokens: PositiveInt = Field(
        8192, description="Most tokens a forward pass of one worker, padding included."
    )
    batching: Literal["auto", "padded", "bucketed", "packed"] = Field(
        "auto",
        description="padded: rows in their order; bucketed: rows of like length together; packed: "
        "end to end without padding, a pair's prompt once; auto: packed, but bucketed for models "
        "that mix tokens outside attention.",
    )
    max_length: PositiveInt = Field(2048, description="Longest conversation, in tokens.")
    too_long: Literal["drop", "cut"] = Field(
        "drop",
        description="What happens to longer ones: dropped, or the reply cut at its end; both are "
        "counted.",
    )
    learning_rate: float = Field(
        5e-6, gt=0, le=1, description="Highest rate; it falls along a cosine."
    )
    warmup_ratio: Share = Field(0.1, description="Share of the steps in which the rate rises.")
    weight_decay: float = Field(0.0, ge=0, description="Of the optimiser.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Longer gradients are clipped.")
    seed: Seed = Field(42, description="Order of the rows.")
    workers: PositiveInt = Field(1, description="Ray Train workers.")
    min_workers: PositiveInt | None = Field(
        None,
        description="With ddp or fsdp2: so few are enough to start, and to go on when a node is "
        "lost; more join when there is room. By default all are needed.",
    )
    strategy: Literal["ddp", "fsdp2", "zero2", "zero3"] = Field(
        "ddp",
        description="How workers share the model: whole, by PyTorch's FSDP2, or by DeepSpeed's "
        "ZeRO.",
    )
    lora: Lora | None = Field(None, description="Low-rank adapters instead of all weights.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto takes bf16 on a GPU that has it and fp32 elsewhere."
    )
    gradient_checkpointing: bool = Field(True, description="Less memory for more time.")
    save_steps: PositiveInt = Field(
        100, description="Steps between checkpoints from which a killed training goes on."
    )
    held_out: float = Field(
        0.0, ge=0, le=0.5, description="Share of the rows kept back to judge saved steps by."
    )
    best_of: PositiveInt = Field(
        2,
        description="With held_out: the final model is the best of so many last saved steps.",
    )
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        (), description="Where logged figures go besides the log and the report."
    )
    restarts: NonNegativeInt = Field(
        2, description="How often failed workers are started again, from the last checkpoint."
    )

    @model_validator(mode="after")
    def _lora_goes_with_the_strategy(self) -> Self:
        if self.lora and self.strategy not in ("ddp", "zero2"):
            raise ValueError(
                f"lora with strategy {self.strategy} is not supported; adapters are small, so "
                "choose ddp or zero2, or train all weights"
            )
        return self

    @model_validator(mode="after")
    def _every_worker_has_a_row(self) -> Self:
        if self.batch_size < self.workers:
            raise ValueError(
                f"batch_size {self.batch_size} gives {self.workers} workers less than a row each; "
                "raise it or lower workers"
            )
        return self

    @model_validator(mode="after")
    def _fewer_workers_can_take_over(self) -> Self:
        if self.min_workers is None:
            return self
        if self.min_workers > self.workers:
            raise ValueError(
                f"min_workers {self.min_workers} is above workers {self.workers}; lower it"
            )
        if self.strategy not in ("ddp", "fsdp2"):
            raise ValueError(
                f"min_workers with strategy {self.strategy} is not supported: its saved steps fit "
                "one number of workers; leave it out, or choose ddp or fsdp2"
            )
        return self

    @property
    def arithmetic(self) -> Literal["fp32", "mixed", "bf16"]:
        """mixed: float32 weights in bf16 arithmetic; bf16: such weights, of which DeepSpeed keeps a
        float32 copy. Without one AdamW's small steps would vanish in bf16 weights.
        """
        if self.precision != "bf16":
            return "fp32"
        return "bf16" if self.strategy in ("zero2", "zero3") else "mixed"

    def shaping(self) -> dict[str, Any]:
        """The keys that shape the trained model; the rest only decides how fast it comes about."""
        return self.model_dump(mode="json", exclude=_PACE)


class Sft(Training):
    """Supervised fine-tuning of the target on the best answers."""

    epochs: PositiveFloat = Field(3.0, description="Passes over the rows.")


class Dpo(Training):
    """Preference optimisation from the fine-tuned target."""

    learning_rate: float = Field(
        8e-7, gt=0, le=1, description="Highest rate; it falls along a cosine."
    )
    loss: LossName = Field(
        "ln_dpo",
        description="ln_dpo: DPO on log-ratios a token, so that length wins nothing; dpo: on their "
        "sums; ipo, simpo, orpo: as their papers have it.",
    )
    beta: float = Field(
        10.0,
        gt=0,
        le=1000,
        description="How strongly the policy is held to the reference; with simpo the scale of "
        "rewards, with orpo the weight of the odds ratio.",
    )
    target_margin: float = Field(
        0.5, ge=0, description="With simpo: by how much chosen is to lead (its gamma)."
    )
    sft_weight: float = Field(0.0, ge=0, description="Weight of a supervised term on chosen.")
    max_kl: PositiveFloat = Field(
        5.0,
        description="Training stops when chosen tokens are less likely than under the reference by "
        "more than this, in nats a token.",
    )
    min_length: Share = Field(
        0.5,
        description="Training stops when the policy would end chosen replies before this share of "
        "the length it gave them at the start.",
    )

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares the policy with its frozen start."""
        return self.loss not in _REFERENCE_FREE
