"""How the target learns: fine-tuning and preference optimisation."""

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fusion.recipe.section import Section, Share


class Training(Section):
    """What fine-tuning and preference optimisation share."""

    data: str | None = Field(None, description="An existing data set in TRL's format instead.")
    data_revision: str | None = Field(None, description="A commit or tag; needed for hf://.")
    epochs: PositiveFloat = Field(1.0, description="Passes over the rows.")
    batch_size: PositiveInt = Field(128, description="Rows a step, over all workers.")
    micro_batch_size: PositiveInt = Field(2, description="Rows a forward pass of one worker.")
    max_length: PositiveInt = Field(2048, description="Longest conversation, in tokens.")
    learning_rate: PositiveFloat = Field(5e-6, description="Highest rate; it falls along a cosine.")
    warmup_ratio: Share = Field(0.1, description="Share of the steps in which the rate rises.")
    weight_decay: float = Field(0.0, ge=0, description="Of the optimiser.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Longer gradients are clipped.")
    seed: int = Field(42, description="Order of the rows.")
    workers: PositiveInt = Field(1, description="Ray Train workers.")
    strategy: Literal["ddp", "zero2", "zero3"] = Field(
        "ddp", description="How workers share the model: whole, or by DeepSpeed's ZeRO."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto takes bf16 on a GPU that has it and fp32 elsewhere."
    )
    gradient_checkpointing: bool = Field(True, description="Less memory for more time.")
    save_steps: PositiveInt = Field(
        100, description="Steps between checkpoints from which a killed training goes on."
    )

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        at_once = self.micro_batch_size * self.workers
        if self.batch_size % at_once:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch_size times workers, "
                f"{at_once}; choose one that is"
            )
        return self


class Sft(Training):
    """Supervised fine-tuning of the target on the best answers (method.md 1.6)."""

    epochs: PositiveFloat = Field(3.0, description="Passes over the rows.")


class Dpo(Training):
    """Preference optimisation from the fine-tuned target (method.md 1.7)."""

    learning_rate: PositiveFloat = Field(8e-7, description="Highest rate; it falls along a cosine.")
    length_normalised: bool = Field(
        True, description="Mean instead of summed log-ratios, so that length wins nothing."
    )
    beta: PositiveFloat = Field(
        10.0, description="How strongly the policy is held to the reference."
    )
    sft_weight: float = Field(0.0, ge=0, description="Weight of a supervised term on chosen.")
