"""What a GPU's data sheet allows an engine at best: memory bandwidth against arithmetic.

A real engine reaches a part of it. Source of the model: Williams, Waterman and Patterson, Roofline
(2009), applied to decoding: a step reads all weights and the KV cache of every answer in it.
"""

from dataclasses import dataclass

from cluster.engine_fit import Split
from cluster.nodes import GpuKind
from fusion.architecture import Architecture
from fusion.recipe import Engine


@dataclass(frozen=True)
class Roofline:
    """Speed limits of one engine, all its GPUs together."""

    weights_bytes: float
    kv_bytes_a_token: float
    parameters: int
    bytes_a_second: float
    flops_a_second: float

    def step_s(self, answers: int, context: float) -> float:
        """Seconds of one step that gives each of `answers` one token, at a mean context length."""
        read = self.weights_bytes + answers * context * self.kv_bytes_a_token
        compute = 2 * self.parameters * answers
        return max(read / self.bytes_a_second, compute / self.flops_a_second)

    def prefill_s(self, tokens: float) -> float:
        """Seconds to take in some prompt tokens."""
        return 2 * self.parameters * tokens / self.flops_a_second

    def tokens_a_second(self, answers: int, prompt_tokens: float, answer_tokens: float) -> float:
        """Answer tokens a second with `answers` decoded at once, their prompts taken in between."""
        step_s = self.step_s(answers, prompt_tokens + answer_tokens / 2)
        an_answer_s = answer_tokens * step_s / answers + self.prefill_s(prompt_tokens)
        return answer_tokens / an_answer_s


def roofline(model: Architecture, engine: Engine, split: Split, kind: GpuKind) -> Roofline | None:
    """The limits of an engine; None for a GPU whose speed is not known."""
    if kind.bandwidth_tb_s is None or kind.bf16_tflops is None:
        return None
    a_gpu = model.kv_bytes_a_token(engine, tensor=split.tensor, pipeline=split.pipeline)
    return Roofline(
        weights_bytes=model.weights_bytes(engine),
        kv_bytes_a_token=a_gpu * split.gpus,
        parameters=model.parameters,
        bytes_a_second=kind.bandwidth_tb_s * 1e12 * split.gpus,
        flops_a_second=kind.bf16_tflops * 1e12 * split.gpus,
    )
