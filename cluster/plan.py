"""The one decision that a plan prints and a run follows: sizes, replicas and waves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.connection import Holdings
from cluster.engine_fit import GIB, REWARD_GPU_OVERHEAD_GIB, Split, choose_split
from cluster.nodes import GpuKind
from cluster.waves import Need, Packed, check_alone, pack
from fusion.architecture import architecture
from fusion.errors import DoesNotFitError
from fusion.models import weights_bytes
from fusion.recipe import Cluster, Engine, Reward

# Resident memory of a CPU engine beyond weights and KV cache: replica and engine core
# with their imports, measured with vLLM 0.29 (0.8 + 1.3 GB).
CPU_ENGINE_OVERHEAD_GIB = 2.1
CPU_REWARD_OVERHEAD_GIB = 0.9
CPU_KV_CACHE_BYTES = 512 << 20


@dataclass(frozen=True)
class Model:
    """A model that is to answer: a source, or a checkpoint of the target."""

    name: str
    model: str
    engine: Engine
    replicas: int = 1
    may_grow: bool = False
    """Whether it may get more replicas where GPUs are left."""
    answers: int = 0
    """How many answers are still wanted of it."""


@dataclass(frozen=True)
class Layout:
    """What was decided: how each engine is split, and the waves."""

    splits: Mapping[str, Split]
    packed: Packed


def lay_out(
    models: Sequence[Model],
    rewards: Mapping[str, Reward],
    holdings: Holdings,
    settings: Cluster,
    *,
    at_once: int | None = None,
    reward_is_up: bool = False,
) -> Layout:
    """Sizes, replicas and waves of some models, with the reward models beside them if they may.

    Reward models that are up already lie on GPUs that nobody chose for the waves.

    Raises:
        DoesNotFitError: the first model that exceeds the cluster even alone.
    """
    splits = {model.name: split_of(model, holdings, settings) for model in models}
    needs = [_need(model, splits[model.name], holdings) for model in models]
    beside = [reward_need(n, r, holdings, settings) for n, r in served_rewards(rewards).items()]
    work = {m.name: _weight_of_work(m, splits[m.name], settings) for m in models}
    packed = pack(needs, beside, holdings, at_once=at_once, work=work, beside_is_up=reward_is_up)
    return Layout(splits, packed)


def misfits(
    models: Sequence[Model],
    rewards: Mapping[str, Reward],
    holdings: Holdings,
    settings: Cluster,
) -> dict[str, str]:
    """Why a model does not fit even alone, and the nearest that would, by its name."""
    found = {}
    for model in models:
        try:
            check_alone(_need(model, split_of(model, holdings, settings), holdings), holdings)
        except DoesNotFitError as error:
            found[model.name] = str(error)
    for name, reward in served_rewards(rewards).items():
        try:
            check_alone(reward_need(name, reward, holdings, settings), holdings)
        except DoesNotFitError as error:
            found[name] = str(error)
    return found


def served_rewards(rewards: Mapping[str, Reward]) -> dict[str, Reward]:
    """The scorers that are models of ours, which need room."""
    return {name: reward for name, reward in rewards.items() if reward.served_model}


def split_of(model: Model, holdings: Holdings, settings: Cluster) -> Split:
    """How an engine lies on the cluster's GPUs; in one piece where there is none.

    Raises:
        DoesNotFitError: it cannot lie there.
    """
    if not holdings.gpus:
        return Split(1, 1)
    return choose_split(
        model.name,
        architecture(model.model, settings.models),
        model.engine,
        kind=smallest_kind(holdings),
        gpus_a_node=max(node.gpus for node in holdings.gpu_nodes),
        gpus=int(holdings.gpus),
        tokens=settings.prompt_tokens + settings.answer_tokens,
    )


def smallest_kind(holdings: Holdings) -> GpuKind | None:
    """The GPU with least memory, which decides; None where one is of a kind not known."""
    kinds = [node.kind for node in holdings.gpu_nodes]
    known = [kind for kind in kinds if kind is not None and kind.memory_gib is not None]
    if not known or len(known) < len(kinds):
        return None
    return min(known, key=lambda kind: kind.memory_gib or 0.0)


def reward_need(name: str, reward: Reward, holdings: Holdings, settings: Cluster) -> Need:
    """One GPU a replica of a reward model, or its resident memory.

    Raises:
        DoesNotFitError: its weights exceed a GPU.
    """
    if not holdings.gpus:
        weights = (weights_bytes(str(reward.model)) or 0) / GIB
        memory = CPU_REWARD_OVERHEAD_GIB + weights
        return Need(name, replicas=reward.replicas, memory_gib=memory)
    model, kind = architecture(str(reward.model), settings.models), smallest_kind(holdings)
    if model and kind and kind.memory_gib:
        weights = model.weights_bytes(Engine(dtype=reward.dtype)) / GIB
        if weights + REWARD_GPU_OVERHEAD_GIB > kind.memory_gib:
            raise DoesNotFitError(
                f"The reward model {name} has {weights:.0f} GiB of weights and lies on one GPU; "
                f"an {kind.name} has {kind.memory_gib:.0f} GiB; use larger GPUs or a smaller model."
            )
    return Need(name, group=1, replicas=reward.replicas)


def _weight_of_work(model: Model, split: Split, settings: Cluster) -> float:
    """Proportional to the time one engine takes: decoding reads all weights for each token."""
    size = architecture(model.model, settings.models)
    return model.answers * (size.parameters / split.gpus if size else 1.0)


def _need(model: Model, split: Split, holdings: Holdings) -> Need:
    """GPUs of an engine and its replicas, or resident memory where it runs on CPU.

    Weights that are not on this machine count as nothing: their size is not known.
    """
    if not holdings.gpus:
        kv_cache = model.engine.kv_cache_memory_bytes or CPU_KV_CACHE_BYTES
        weights = weights_bytes(model.model) or 0
        memory = CPU_ENGINE_OVERHEAD_GIB + (weights + kv_cache) / GIB
        return Need(model.name, replicas=model.replicas, memory_gib=memory)
    # a replica with fewer answers than it decodes at once would not pay for its start
    worthwhile = max(1, model.answers // model.engine.max_num_seqs)
    return Need(
        model.name,
        group=split.tensor,
        groups=split.pipeline,
        replicas=model.replicas,
        may_grow=model.may_grow,
        most=worthwhile,
    )
