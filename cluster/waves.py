"""Pack models into waves: which are up together and where, so that nothing is oversubscribed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.connection import Holdings
from cluster.nodes import Node
from fusion.errors import DoesNotFitError

# What Ray, the driver and the Ray Data actors take on a machine of their own.
BASE_GIB = 3.0


@dataclass(frozen=True)
class Need:
    """What one model needs while it is up.

    An engine is `groups` groups of `group` GPUs; a group lies on one node. On CPU it needs
    memory instead.
    """

    name: str
    group: int = 0
    groups: int = 1
    replicas: int = 1
    memory_gib: float = 0.0
    may_grow: bool = False
    most: int = 1
    """Most replicas that would have something to do, for one that may grow."""

    @property
    def gpus(self) -> int:
        """GPUs of all replicas."""
        return self.group * self.groups * self.replicas


@dataclass(frozen=True)
class Wave:
    """Models that are up together, their replicas, and the nodes on which their GPUs are."""

    replicas: Mapping[str, int]
    nodes: Mapping[str, tuple[str, ...]]
    """Name of a model -> the node of each of its groups."""

    @property
    def names(self) -> list[str]:
        """The models in it."""
        return list(self.replicas)


@dataclass(frozen=True)
class Packed:
    """All waves, and whether the models that stay up have room beside them."""

    waves: tuple[Wave, ...]
    has_beside: bool


def pack(
    needs: Sequence[Need],
    beside: Sequence[Need],
    holdings: Holdings,
    *,
    at_once: int | None = None,
    work: Mapping[str, float] | None = None,
) -> Packed:
    """The waves with the models of `beside` up all the time, or without where that needs fewer.

    Args:
        needs: The models to pack.
        beside: Models that stay up through all waves if they cost no further wave.
        holdings: What the cluster holds.
        at_once: Most models in a wave; by default as many as fit.
        work: How much each model has to do, in any unit; replicas go where most is left.

    Raises:
        DoesNotFitError: a model exceeds the cluster even alone.
    """
    for need in (*needs, *beside):
        check_alone(need, holdings)
    apart = pack_waves(needs, [], holdings, at_once=at_once, work=work)
    try:
        together = pack_waves(needs, beside, holdings, at_once=at_once, work=work)
    except DoesNotFitError:
        return Packed(tuple(apart), has_beside=False)
    if len(together) > len(apart):
        return Packed(tuple(apart), has_beside=False)
    return Packed(tuple(together), has_beside=True)


def pack_waves(
    needs: Sequence[Need],
    beside: Sequence[Need],
    holdings: Holdings,
    *,
    at_once: int | None = None,
    work: Mapping[str, float] | None = None,
) -> list[Wave]:
    """The models of each wave, in the order given, first wave that has room.

    GPUs that a wave leaves idle become further replicas of its models that may grow.

    Raises:
        DoesNotFitError: a model has no room even alone beside those that stay up.
    """
    most = at_once or len(needs)
    waves: list[list[Need]] = []
    for need in needs:
        if _placed([need], beside, holdings) is None:
            raise DoesNotFitError(_no_room(need, beside, holdings))
        for wave in waves:
            if len(wave) < most and _placed([*wave, need], beside, holdings) is not None:
                wave.append(need)
                break
        else:
            waves.append([need])
    return [_wave(_grown(wave, beside, holdings, work or {}), beside, holdings) for wave in waves]


def check_alone(need: Need, holdings: Holdings) -> None:
    """See that a model fits the cluster when nothing else is up.

    Raises:
        DoesNotFitError: it does not.
    """
    if _placed([need], [], holdings) is None:
        raise DoesNotFitError(_no_room(need, [], holdings))


def _wave(wave: Sequence[Need], beside: Sequence[Need], holdings: Holdings) -> Wave:
    placed = _placed(wave, beside, holdings) or {}
    names = [need.name for need in wave]
    return Wave(
        replicas={need.name: need.replicas for need in wave},
        nodes={name: placed[name] for name in names if name in placed},
    )


def _grown(
    wave: Sequence[Need], beside: Sequence[Need], holdings: Holdings, work: Mapping[str, float]
) -> list[Need]:
    """The wave with replicas added, each time to the model that has most left for a replica."""
    grown = list(wave)
    while True:
        growing = [n for n in grown if n.may_grow and n.group and n.replicas < n.most]
        growing.sort(key=lambda n: work.get(n.name, 0.0) / n.replicas, reverse=True)
        for need in growing:
            larger = replace(need, replicas=need.replicas + 1)
            tried = [larger if n is need else n for n in grown]
            if _placed(tried, beside, holdings) is not None:
                grown = tried
                break
        else:
            return grown


def _placed(
    wave: Sequence[Need], beside: Sequence[Need], holdings: Holdings
) -> dict[str, tuple[str, ...]] | None:
    """The node of every group of GPUs, largest groups first, each where it leaves least over.

    None where there is no room, in GPUs of one node each or in memory.
    """
    memory = holdings.memory_gib - BASE_GIB
    if sum(n.memory_gib * n.replicas for n in (*wave, *beside)) > memory:
        return None
    free = {node.name: node.gpus for node in _nodes(holdings)}
    placed: dict[str, tuple[str, ...]] = {}
    for need in sorted((n for n in (*wave, *beside) if n.group), key=lambda n: -n.group):
        for _ in range(need.groups * need.replicas):
            roomy = [name for name, left in free.items() if left >= need.group]
            if not roomy:
                return None
            chosen = min(roomy, key=lambda name: free[name])
            free[chosen] -= need.group
            placed[need.name] = (*placed.get(need.name, ()), chosen)
    return placed


def _nodes(holdings: Holdings) -> Sequence[Node]:
    return holdings.gpu_nodes if holdings.gpus else ()


def _no_room(need: Need, beside: Sequence[Need], holdings: Holdings) -> str:
    names = f" beside {', '.join(n.name for n in beside)}" if beside else ""
    if not need.group:
        has = holdings.memory_gib - BASE_GIB - sum(n.memory_gib * n.replicas for n in beside)
        wants = need.memory_gib * need.replicas
        return (
            f"{need.name} needs {wants:.1f} GiB of memory and there are {has:.1f} GiB{names}; "
            "use a larger machine, fewer replicas or a smaller model."
        )
    groups = need.groups * need.replicas
    each = f" ({groups} times {need.group} on one node)" if groups > 1 and need.group > 1 else ""
    sizes = sorted({node.gpus for node in _nodes(holdings)})
    return (
        f"{need.name} needs {need.gpus} GPUs{each} and there are {holdings.gpus:g} GPUs"
        f"{f' in nodes of {sizes[-1]}' if holdings.nodes > 1 and sizes else ''}{names}; "
        "use a larger cluster, fewer replicas or a smaller model."
    )
