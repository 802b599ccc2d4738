"""Nodes and their GPUs: of a cluster that is up, or of one that is described in a word."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fusion.errors import BadInputError

# A card of an unknown kind: what is left of the gigabytes it is sold with, in GiB.
GIB_A_STATED_GB = 0.93
# Closer than this, relative to it, a stated memory means the card that is known.
SAME_CARD = 0.15
CPUS_A_GPU = 16
MEMORY_GIB_A_GPU = 200.0
_GROUP = re.compile(
    r"(\d{1,4})x(\d{1,4})x([A-Za-z](?:[\w-]*?\w)?)(?:-(\d+(?:\.\d+)?)(?:GB|GiB|G))?"
)


@dataclass(frozen=True)
class GpuKind:
    """What a GPU can hold and how fast it is at best; None where it is not known."""

    name: str
    memory_gib: float | None = None
    bandwidth_tb_s: float | None = None
    bf16_tflops: float | None = None


@dataclass(frozen=True)
class Node:
    """What one node of a cluster declares."""

    name: str
    cpus: float
    memory_gib: float
    gpus: int = 0
    kind: GpuKind | None = None
    has_sandbox: bool = False


@cache
def gpu_kinds() -> Mapping[str, GpuKind]:
    """The GPUs whose figures are known, by Ray's name."""
    text = Path(__file__).with_name("gpus.yaml").read_text(encoding="utf-8")
    return {name: GpuKind(name, **figures) for name, figures in yaml.safe_load(text).items()}


def gpu_kind(name: str, stated_gb: float | None = None) -> GpuKind:
    """The GPU of a name; one of another memory than is known for it has what is stated."""
    known = gpu_kinds()
    kind = known.get(name, GpuKind(name))
    if stated_gb is None:
        return kind
    memory = stated_gb * GIB_A_STATED_GB
    if exact := known.get(f"{name}-{stated_gb:g}G"):
        return exact
    if kind.memory_gib and abs(kind.memory_gib - memory) < SAME_CARD * memory:
        return kind
    return replace(kind, memory_gib=memory)


def described_nodes(spec: str) -> tuple[Node, ...]:
    """The nodes that a text such as 2x8xH100-80GB or 2x8xH100-80GB,1x16xCPU-64GB describes.

    NODESxGPUSxKIND-MEMORY; with CPU for KIND the second number is that of cores and the memory
    the node's. What the text leaves out is assumed: CPUs and memory of a node by its GPUs.

    Raises:
        BadInputError: the text is none of these.
    """
    nodes: list[Node] = []
    for part in spec.split(","):
        match = _GROUP.fullmatch(part.strip())
        if match is None or not int(match[1]) or not int(match[2]):
            raise BadInputError(
                f"The cluster {spec!r} is not understood; describe it as NODESxGPUSxKIND-MEMORY, "
                "as 2x8xH100-80GB, or NODESxCORESxCPU-MEMORY, parted by commas."
            )
        count, size, kind, stated = int(match[1]), int(match[2]), match[3], match[4]
        if not stated and kind.upper() != "CPU" and kind not in gpu_kinds():
            raise BadInputError(
                f"The memory of a {kind} is not known; add it, as {count}x{size}x{kind}-80GB."
            )
        memory_gb = float(stated) if stated else None
        first = len(nodes) + 1
        names = [f"node {number}" for number in range(first, first + count)]
        nodes.extend(_described(name, size, kind, memory_gb) for name in names)
    return tuple(nodes)


def _described(name: str, size: int, kind: str, memory_gb: float | None) -> Node:
    if kind.upper() == "CPU":
        return Node(name, float(size), memory_gb or 4.0 * size, has_sandbox=True)
    cpus, memory = float(CPUS_A_GPU * size), MEMORY_GIB_A_GPU * size
    return Node(name, cpus, memory, size, gpu_kind(kind, memory_gb), has_sandbox=True)


def declared_node(name: str, resources: Mapping[str, Any]) -> Node:
    """A node of a Ray cluster by the resources it declares."""
    prefix = "accelerator_type:"
    kinds = [key.removeprefix(prefix) for key in resources if key.startswith(prefix)]
    return Node(
        name,
        cpus=resources.get("CPU", 0.0),
        memory_gib=resources.get("memory", 0.0) / (1 << 30),
        gpus=int(resources.get("GPU", 0)),
        kind=gpu_kind(kinds[0]) if kinds else None,
        has_sandbox=resources.get("sandbox", 0) > 0,
    )
