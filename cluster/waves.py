"""Pack models into waves: which are up together and where, so that nothing is oversubscribed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cluster.connection import Holdings
from cluster.nodes import Node
from fusion.errors import DoesNotFitError

# What Ray, the driver and the Ray Data actors take of a node.
BASE_GIB = 3.0


@dataclass(frozen=True)
class Need:
    """What one model needs while it is up.

    An engine is `groups` groups of `group` GPUs; a group lies on one node. On CPU each replica
    needs memory of one node instead.
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


Places = Mapping[str, tuple[str, ...]]
"""Name of a model -> the node of each of its groups."""


@dataclass(frozen=True)
class Wave:
    """Models that are up together, their replicas, and the nodes on which their GPUs are."""

    replicas: Mapping[str, int]
    nodes: Places

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
    beside_is_up: bool = False,
) -> Packed:
    """The waves with the models of `beside` up all the time, or without where that needs fewer.

    Models of one wave come up together with those of `beside`, the largest groups first. Once these
    are up, a wave has to fit wherever they lie.

    Args:
        needs: The models to pack.
        beside: Models that stay up through all waves if they cost no further wave.
        holdings: What the cluster holds.
        at_once: Most models in a wave; by default as many as fit.
        work: How much each model has to do, in any unit; replicas go where most is left.
        beside_is_up: Whether the models of `beside` may be up before the first wave is.

    Raises:
        DoesNotFitError: a model exceeds the cluster even alone.
    """
    for need in (*needs, *beside):
        check_alone(need, holdings)
    apart = pack_waves(needs, [], holdings, at_once=at_once, work=work)
    came_before = beside_is_up or len(apart) > 1
    try:
        together = pack_waves(
            needs, beside, holdings, at_once=at_once, work=work, came_before=came_before
        )
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
    came_before: bool = False,
) -> list[Wave]:
    """The models of each wave, in the order given, first wave that has room.

    GPUs that a wave leaves idle become further replicas of its models that may grow. Where the
    models of `beside` came before, a wave fits wherever they lie.

    Raises:
        DoesNotFitError: a model has no room even alone beside those that stay up.
    """

    def placed(wave: Sequence[Need]) -> Places | None:
        if came_before and not _leaves_room(beside, wave, holdings):
            return None
        return _placed([*wave, *beside], holdings)

    most = at_once or len(needs)
    waves: list[list[Need]] = []
    for need in needs:
        if placed([need]) is None:
            raise DoesNotFitError(_no_room(need, beside, holdings))
        for wave in waves:
            if len(wave) < most and placed([*wave, need]) is not None:
                wave.append(need)
                break
        else:
            waves.append([need])
    grown = [_grown(wave, placed, work or {}) for wave in waves]
    return [_wave(wave, placed(wave) or {}) for wave in grown]


def check_alone(need: Need, holdings: Holdings) -> None:
    """See that a model fits the cluster when nothing else is up.

    Raises:
        DoesNotFitError: it does not.
    """
    if _placed([need], holdings) is None:
        raise DoesNotFitError(_no_room(need, [], holdings))


def _wave(wave: Sequence[Need], placed: Places) -> Wave:
    return Wave(
        replicas={need.name: need.replicas for need in wave},
        nodes={need.name: placed[need.name] for need in wave if need.name in placed},
    )


def _grown(
    wave: Sequence[Need],
    placed: Callable[[Sequence[Need]], Places | None],
    work: Mapping[str, float],
) -> list[Need]:
    """The wave with replicas added, each time to the model that has most left for a replica."""
    grown = list(wave)
    while True:
        growing = [n for n in grown if n.may_grow and n.group and n.replicas < n.most]
        growing.sort(key=lambda n: work.get(n.name, 0.0) / n.replicas, reverse=True)
        for need in growing:
            larger = replace(need, replicas=need.replicas + 1)
            tried = [larger if n is need else n for n in grown]
            if placed(tried) is not None:
                grown = tried
                break
        else:
            return grown


def _placed(needs: Sequence[Need], holdings: Holdings) -> Places | None:
    """The node of every group of GPUs, largest groups first, each where most is free, as Ray does.

    None where there is no room, in GPUs or in memory of one node each. Where sizes divide each
    other there is room in this order on whatever nodes the larger groups are, or there is none.
    """
    if not _has_memory(needs, holdings):
        return None
    free = {node.name: node.gpus for node in _nodes(holdings)}
    placed: dict[str, tuple[str, ...]] = {}
    for need in sorted((n for n in needs if n.group), key=lambda n: -n.group):
        for _ in range(need.groups * need.replicas):
            chosen = max(free, key=lambda name: free[name], default=None)
            if chosen is None or free[chosen] < need.group:
                return None
            free[chosen] -= need.group
            placed[need.name] = (*placed.get(need.name, ()), chosen)
    return placed


def _has_memory(needs: Sequence[Need], holdings: Holdings) -> bool:
    """Whether each replica finds its memory on one node, the largest first, where most is free."""
    free = _free_gib(holdings)
    for need in sorted((n for n in needs if n.memory_gib), key=lambda n: -n.memory_gib):
        for _ in range(need.replicas):
            roomiest = max(range(len(free)), key=lambda node: free[node])
            free[roomiest] -= need.memory_gib
            if free[roomiest] < 0:
                return False
    return True


def _leaves_room(there: Sequence[Need], wave: Sequence[Need], holdings: Holdings) -> bool:
    """Whether a wave fits on whatever GPUs those lie that are there already.

    For groups of a size g, a node has room for free // g of them. What lies on the node takes
    them away: the first once it exceeds what g groups leave over, a further one with each g GPUs.
    """
    taken = sum(need.gpus for need in there)
    sizes = [node.gpus for node in _nodes(holdings)]
    for group in {need.group for need in wave if need.group}:
        room = sum(size // group for size in sizes)
        left = taken
        for spare in sorted(size % group for size in sizes if size >= group):
            if left > spare:
                left -= spare + 1
                room -= 1
        room -= left // group
        wanted = sum(n.gpus / group for n in wave if n.group >= group)
        if wanted > room:
            return False
    return True


def _nodes(holdings: Holdings) -> Sequence[Node]:
    return holdings.gpu_nodes if holdings.gpus else ()


def _free_gib(holdings: Holdings) -> list[float]:
    return [gib - BASE_GIB for gib in holdings.node_gib or (holdings.memory_gib,)]


def _no_room(need: Need, beside: Sequence[Need], holdings: Holdings) -> str:
    names = f" beside {', '.join(n.name for n in beside)}" if beside else ""
    if not need.group:
        free = _free_gib(holdings)
        has = sum(free) - sum(n.memory_gib * n.replicas for n in beside)
        wants = need.memory_gib * need.replicas
        each = f" ({need.replicas} times {need.memory_gib:.1f} on one node)"
        largest = f", {max(free):.1f} GiB on the largest node"
        is_apart = len(free) > 1
        return (
            f"{need.name} needs {wants:.1f} GiB of memory{each if is_apart else ''} and there are "
            f"{has:.1f} GiB{largest if is_apart else ''}{names}; "
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
