"""Whether the nodes of a cluster see what a run needs, asked of each node and not of the driver."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.settings import ray_address
from fusion.errors import BadInputError, CrucibleError
from fusion.store import Location

ANSWER_TIMEOUT_S = 120.0


def check_reach(storage: Location, models: Sequence[str]) -> int:
    """See that every node reaches the storage and has the local models, where there is a cluster.

    The driver's own node has shown it by writing there. Nodes that come later are not asked.

    Returns:
        How many nodes were asked.

    Raises:
        BadInputError: a node does not; it names the node and what it lacks.
    """
    if ray_address() is None:
        return 0
    mark = f"reach-{uuid4().hex}"
    (storage / mark).write_text("")
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) > 0]
    try:
        asked = [(node, _ask(node["NodeID"], storage, mark, models)) for node in nodes]
        for node, answer in asked:
            where = f"The node {node['NodeManagerHostname']} ({node['NodeID'][:8]})"
            if fault := _answer(answer):
                raise BadInputError(f"{where} {fault}")
    finally:
        for entry in storage.list():
            if entry.name.startswith(mark):
                (storage / entry.name).delete()
    return len(nodes)


def _ask(node: str, storage: Location, mark: str, models: Sequence[str]) -> Any:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(missing_at).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    return task.remote(storage, mark, f"{mark}-{node[:8]}", list(models))


def missing_at(storage: Location, mark: str, own: str, models: Sequence[str]) -> str | None:
    """What the process that this runs in cannot reach, as the end of a sentence; None if nothing.

    Args:
        storage: A folder that the driver writes to.
        mark: The name of a file that it wrote there.
        own: The name of one that is written beside it.
        models: Folders that must be there.
    """
    advice = "give s3://, or a folder that all nodes mount under the same path."
    try:
        if not (storage / mark).exists():
            return f"does not see in {storage} what the driver wrote there; {advice}"
        (storage / own).write_text("")
    except (OSError, CrucibleError) as error:
        return f"cannot write to {storage} ({error}); {advice}"
    lacking = [model for model in models if not Path(model).is_dir()]
    if lacking:
        return f"has no model {lacking[0]}; put it there, or use a hub id or s3://."
    return None


def _answer(answer: Any) -> str | None:
    try:
        fault: str | None = ray.get(answer, timeout=ANSWER_TIMEOUT_S)
    except GetTimeoutError:
        return f"does not start a process within {ANSWER_TIMEOUT_S:.0f} s; see its Ray logs."
    except RayError as error:
        last = str(error).strip().splitlines()[-1]
        return f"cannot run Crucible ({last}); use an image with this release on every node."
    return fault
