"""Whether a model fits on GPUs: weights and KV cache against memory, heads against GPUs."""

from collections.abc import Iterator
from dataclasses import dataclass

from cluster.nodes import GpuKind
from fusion.architecture import Architecture
from fusion.errors import DoesNotFitError
from fusion.recipe import Engine

GIB = 1 << 30
# CUDA context, NCCL buffers, captured graphs and the activations of one step of vLLM, each GPU:
# an assumption, on the safe side.
OVERHEAD_GIB = 3.0
# The same for the reward model, with the activations of one batch.
REWARD_GPU_OVERHEAD_GIB = 4.0


@dataclass(frozen=True)
class Split:
    """How an engine lies on GPUs: `tensor` of them share a layer, `pipeline` groups the layers."""

    tensor: int
    pipeline: int

    @property
    def gpus(self) -> int:
        """GPUs of the whole engine."""
        return self.tensor * self.pipeline


@dataclass(frozen=True)
class Room:
    """What an engine's GPUs hold: GiB on each GPU, tokens in the whole engine."""

    weights_gib: float
    kv_gib: float
    kv_tokens: int

    def answers_at_once(self, tokens: float, most: int) -> int:
        """Answers of an average length that are decoded together."""
        return min(most, int(self.kv_tokens / max(1.0, tokens)))


def room(model: Architecture, engine: Engine, split: Split, memory_gib: float) -> Room:
    """Memory of one GPU less weights and overhead, and the tokens whose KV cache that holds.

    kv_gib = gpu_memory_utilization * memory - weights / (tensor * pipeline) - overhead
    """
    weights_gib = model.weights_bytes(engine) / split.gpus / GIB
    kv_gib = engine.gpu_memory_utilization * memory_gib - weights_gib - OVERHEAD_GIB
    if engine.kv_cache_memory_bytes is not None:
        kv_gib = min(kv_gib, engine.kv_cache_memory_bytes / GIB)
    a_token = model.kv_bytes_a_token(engine, tensor=split.tensor, pipeline=split.pipeline)
    return Room(weights_gib, kv_gib, max(0, int(kv_gib * GIB / a_token)))


def starts(model: Architecture, engine: Engine, found: Room) -> bool:
    """Whether vLLM would start: the KV cache holds the longest sequence allowed."""
    longest = engine.max_model_len or model.context or 1
    return found.kv_tokens >= longest


def choose_split(
    name: str,
    model: Architecture | None,
    engine: Engine,
    *,
    kind: GpuKind | None,
    gpus_a_node: int,
    gpus: int,
    tokens: float,
) -> Split:
    """The sizes that the recipe states, checked; what it leaves open is chosen.

    Chosen are the fewest GPUs of one node whose KV cache holds `max_num_seqs` answers of `tokens`
    tokens; where no number of them does, the fewest on which the engine starts, over several
    nodes if need be. A model or GPU of unknown size gets what is stated, else one GPU.

    Raises:
        DoesNotFitError: no such sizes, or those stated cannot be; it names the nearest that can.
    """
    stated = Split(engine.tensor_parallel_size or 1, engine.pipeline_parallel_size or 1)
    memory = kind.memory_gib if kind else None
    too_wide = f"{name} has tensor_parallel_size {stated.tensor} and the largest node has "
    too_wide += f"{gpus_a_node} GPUs"
    if model is None or memory is None:
        if stated.tensor > gpus_a_node:
            raise DoesNotFitError(f"{too_wide}; use pipeline_parallel_size for the rest.")
        return stated
    fitting = list(_fitting(model, engine, gpus_a_node, gpus, memory))
    allowed = [split for split in fitting if _as_stated(split, engine)]
    if not allowed:
        is_wide = stated.tensor > gpus_a_node
        why = too_wide if is_wide else _fault(name, model, engine, stated, memory, kind)
        raise DoesNotFitError(f"{why}; {_nearest(model, engine, memory, fitting)}")
    for split in allowed:
        wanted = room(model, engine, split, memory).answers_at_once(tokens, engine.max_num_seqs)
        if wanted == engine.max_num_seqs and split.pipeline == allowed[0].pipeline:
            return split
    return allowed[0]


def _fitting(
    model: Architecture, engine: Engine, gpus_a_node: int, gpus: int, memory: float
) -> Iterator[Split]:
    """Sizes that divide heads and layers and on which the engine starts, the best first."""
    splits = [
        Split(tensor, pipeline)
        for pipeline in range(1, gpus + 1)
        for tensor in range(1, gpus_a_node + 1)
        if tensor * pipeline <= gpus and model.divides(tensor, pipeline)
    ]
    for split in sorted(splits, key=lambda s: (s.pipeline > 1, s.gpus, s.pipeline)):
        if starts(model, engine, room(model, engine, split, memory)):
            yield split


def _as_stated(split: Split, engine: Engine) -> bool:
    tensor, pipeline = engine.tensor_parallel_size, engine.pipeline_parallel_size
    return tensor in (None, split.tensor) and pipeline in (None, split.pipeline)


def _fault(
    name: str,
    model: Architecture,
    engine: Engine,
    stated: Split,
    memory: float,
    kind: GpuKind | None,
) -> str:
    sizes = f"tensor_parallel_size {stated.tensor}"
    if stated.pipeline > 1:
        sizes += f" and pipeline_parallel_size {stated.pipeline}"
    if not model.divides(stated.tensor, stated.pipeline):
        return (
            f"{name} cannot be split by {sizes}: it has {model.heads.attention} attention heads, "
            f"{model.heads.kv} KV heads and {model.layers} layers"
        )
    found = room(model, engine, stated, memory)
    longest = engine.max_model_len or model.context or 1
    card = f"{kind.name if kind else 'a GPU'} of {memory:.0f} GiB"
    return (
        f"{name} with {sizes} has {found.weights_gib:.0f} GiB of weights on each {card}, which "
        f"leaves no room for the KV cache of {longest:,} tokens"
    )


def _nearest(model: Architecture, engine: Engine, memory: float, fitting: list[Split]) -> str:
    if fitting:
        best = fitting[0]
        pipeline = f" and pipeline_parallel_size {best.pipeline}" if best.pipeline > 1 else ""
        return f"the nearest that fits is tensor_parallel_size {best.tensor}{pipeline}."
    weights = model.weights_bytes(engine) / GIB
    longest = engine.max_model_len or model.context or 1
    cache = longest * model.kv_bytes_a_token(engine, tensor=1, pipeline=1) / GIB
    usable = engine.gpu_memory_utilization * memory - OVERHEAD_GIB
    needed = -(-(weights + cache) // max(0.1, usable))
    advice = f"it needs {max(1, needed):.0f} such GPUs"
    if cache > usable:
        return f"{advice}, or a smaller engine.max_model_len."
    return f"{advice}, larger ones, or a quantised model."
