"""Pack sources into waves: which models are up together, so that nothing is oversubscribed."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.connection import GIB, Holdings
from fusion.errors import DoesNotFitError
from fusion.models import weights_bytes
from fusion.recipe import Engine

# Resident memory of a CPU engine beyond weights and KV cache: replica and engine core
# with their imports, measured with vLLM 0.29 (0.8 + 1.3 GB).
CPU_ENGINE_OVERHEAD_GIB = 2.1
REWARD_OVERHEAD_GIB = 0.9
# What Ray, the driver and the Ray Data actors take on a machine of their own.
BASE_GIB = 3.0


@dataclass(frozen=True)
class Need:
    """What one model needs while it is up."""

    name: str
    gpus: int
    memory_gib: float


def engine_need(
    name: str, model: str, engine: Engine, replicas: int, *, on_cpu: bool, kv_cache_bytes: int
) -> Need:
    """GPUs of an engine and its replicas, or resident memory where it runs on CPU.

    Weights that are not on this machine count as nothing: their size is not known.
    """
    if not on_cpu:
        workers = engine.tensor_parallel_size * engine.pipeline_parallel_size
        return Need(name, workers * replicas, 0.0)
    kv_cache = engine.kv_cache_memory_bytes or kv_cache_bytes
    each = CPU_ENGINE_OVERHEAD_GIB + ((weights_bytes(model) or 0) + kv_cache) / GIB
    return Need(name, 0, each * replicas)


def reward_need(model: str, replicas: int, *, on_cpu: bool) -> Need:
    """One GPU a replica of the reward model, or its resident memory."""
    if not on_cpu:
        return Need("reward", replicas, 0.0)
    return Need("reward", 0, (REWARD_OVERHEAD_GIB + (weights_bytes(model) or 0) / GIB) * replicas)


def pack_waves(
    needs: Sequence[Need],
    always_up: Sequence[Need],
    holdings: Holdings,
    *,
    at_once: int | None = None,
) -> list[list[str]]:
    """Names of the models of each wave, in the order given, first wave that has room.

    Args:
        needs: The models to pack.
        always_up: Models that stay up through all waves.
        holdings: What the cluster holds.
        at_once: Most models in a wave; by default as many as fit.

    Raises:
        DoesNotFitError: a model exceeds the cluster even alone.
    """
    gpus = holdings.gpus - sum(n.gpus for n in always_up)
    memory = holdings.memory_gib - BASE_GIB - sum(n.memory_gib for n in always_up)
    most = at_once or len(needs)
    waves: list[list[Need]] = []
    for need in needs:
        _check_alone(need, gpus, memory, always_up)
        for wave in waves:
            together = [*wave, need]
            if len(together) <= most and _fits(together, gpus, memory):
                wave.append(need)
                break
        else:
            waves.append([need])
    return [[need.name for need in wave] for wave in waves]


def _fits(wave: Sequence[Need], gpus: float, memory: float) -> bool:
    return sum(n.gpus for n in wave) <= gpus and sum(n.memory_gib for n in wave) <= memory


def _check_alone(need: Need, gpus: float, memory: float, always_up: Sequence[Need]) -> None:
    if _fits([need], gpus, memory):
        return
    beside = f" beside {', '.join(n.name for n in always_up)}" if always_up else ""
    if need.gpus > gpus:
        wants, has = f"{need.gpus} GPUs", f"{gpus:g} GPUs"
    else:
        wants, has = f"{need.memory_gib:.1f} GiB of memory", f"{memory:.1f} GiB"
    raise DoesNotFitError(
        f"{need.name} needs {wants} and there are {has}{beside}; "
        "use a larger cluster, fewer replicas or a smaller model."
    )
