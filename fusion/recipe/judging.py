"""What judges answers: the reward model, and the limits of the verifiers."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from fusion.recipe.section import Section
from fusion.recipe.sources import Model


class Reward(Model):
    """The reward model: one score for a whole conversation."""

    kind: Literal["classifier", "armorm"] = Field(
        "classifier", description="A sequence classifier with one output, or ArmoRM."
    )
    max_length: PositiveInt = Field(4096, description="Longer conversations go to quarantine.")
    batch_size: PositiveInt = Field(16, description="Conversations a forward pass.")
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="Number format of the weights."
    )
    replicas: PositiveInt = Field(1, description="Copies of the reward model, one GPU each.")


class CodeVerification(Section):
    """Limits of one program in the sandbox."""

    timeout_s: PositiveFloat = Field(10.0, description="Wall-clock time of one program.")
    memory_mib: PositiveInt = Field(
        512, description="Memory of each process and of a program's whole tree."
    )
    processes: PositiveInt = Field(16, description="Processes and threads of one program.")
    output_kib: PositiveInt = Field(64, description="Output kept; more is cut off.")
    file_mib: PositiveInt = Field(
        16, description="Largest file a program may write, and all of them together."
    )


class MathVerification(Section):
    """Limits of one comparison of mathematics."""

    timeout_s: PositiveInt = Field(5, description="Time to parse and compare one answer.")


class Verification(Section):
    """How answers are checked."""

    code: CodeVerification = CodeVerification()
    math: MathVerification = MathVerification()
    workers: PositiveInt = Field(2, description="Answers checked at the same time on a node.")
