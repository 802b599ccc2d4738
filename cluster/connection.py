"""Connect to the cluster, or start Ray on this machine."""

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # a module in C++
from ray.exceptions import AuthenticationError, RayError

from cluster.engine_fit import GIB
from cluster.nodes import Node, declared_node, described_nodes
from cluster.settings import apply_quiet_defaults, ray_address
from fusion.errors import BadInputError, CrucibleError, DoesNotFitError, one_line
from fusion.recipe import Recipe

# Ray's slots only order work on a machine of our own; waves bound the memory, the kernel
# shares the cores. A cluster keeps the numbers its nodes declare.
LOCAL_SLOTS = 32
ANSWER_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Holdings:
    """What a cluster holds, all its nodes together."""

    nodes: int
    """Nodes that work: those with CPUs; a head may have none, and so may a sandbox."""
    cpus: float
    cores: int
    """Cores of the node that has the fewest, which processes on one node share."""
    gpus: float
    memory_gib: float
    sandbox_nodes: int
    gpu_nodes: tuple[Node, ...] = ()
    node_gib: tuple[float, ...] = ()
    """Memory of each node that works; empty where only their sum is known."""

    def without_gpus(self) -> "Holdings":
        """The same without its GPUs."""
        return replace(self, gpus=0, gpu_nodes=())


def holdings_of(nodes: Sequence[Node]) -> Holdings:
    """What some nodes hold together."""
    working = [node for node in nodes if node.cpus]
    return Holdings(
        nodes=len(working),
        cpus=sum(node.cpus for node in working),
        cores=int(min((node.cpus for node in working), default=1)),
        gpus=sum(node.gpus for node in nodes),
        memory_gib=sum(node.memory_gib for node in working),
        sandbox_nodes=sum(node.has_sandbox for node in nodes),
        gpu_nodes=tuple(node for node in nodes if node.gpus),
        node_gib=tuple(node.memory_gib for node in working),
    )


def current_holdings() -> Holdings:
    """What the cluster that this process is connected to holds now."""
    return _cluster_holdings() if ray_address() else _machine_holdings()


def usable(recipe: Recipe, holdings: Holdings) -> Holdings:
    """What of the cluster the recipe reckons with: no GPUs where it says cpu.

    Under an autoscaler it is what the recipe says that the cluster grows to.

    Raises:
        DoesNotFitError: the recipe wants GPUs and there is none.
    """
    wanted = recipe.cluster.accelerator
    if recipe.cluster.grows_to is not None:
        holdings = holdings_of(described_nodes(recipe.cluster.grows_to))
    if wanted == "gpu" and not holdings.gpus:
        raise DoesNotFitError(
            "cluster.accelerator is gpu and there is no GPU; use a cluster with some, or auto."
        )
    return holdings.without_gpus() if wanted == "cpu" else holdings


@contextmanager
def connected(*, log_level: int = logging.ERROR) -> Iterator[Holdings]:
    """Join the cluster of `RAY_ADDRESS`, or start Ray here and stop it at the end.

    Raises:
        BadInputError: there is an address, and no cluster of our Ray version that lets us in.
        CrucibleError: Ray does not start here.
    """
    apply_quiet_defaults()
    logging.getLogger("ray").setLevel(log_level)
    address = ray_address()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with _standard_error_kept():
        if address:
            _join(address, log_level)
        else:
            _start_local(log_level)
    signal.signal(signal.SIGTERM, on_sigterm)  # ray.init takes it for itself
    try:
        yield current_holdings()
    finally:
        ray.shutdown()


@contextmanager
def _standard_error_kept() -> Iterator[None]:
    """Hold back what Ray's C++ core writes while it starts; show it if starting goes wrong."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BadInputError:
            raise
        except BaseException:
            kept.seek(0)
            os.write(before, kept.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)


def _join(address: str, log_level: int) -> None:
    try:
        _check_answers(address)
        ray.init(address, logging_level=log_level, log_to_driver=False)
    except AuthenticationError:
        raise BadInputError(
            f"The Ray cluster of RAY_ADDRESS, {address}, asks for another token; set RAY_AUTH_MODE "
            "to token, and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it, to the "
            "cluster's own."
        ) from None
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise BadInputError(
            f"The Ray cluster of RAY_ADDRESS, {address}, cannot be joined ({one_line(error)}); "
            "correct it to HEAD:6379 of a cluster of this Ray, or unset it to use this machine."
        ) from None


def _check_answers(address: str) -> None:
    """Ray itself tries twenty times: for half a minute, or a quarter of an hour on another port."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_TIMEOUT_S).close()
        if "://" not in address:
            GcsClient(address=address)


def _start_local(log_level: int) -> None:
    root = str(Path(__file__).resolve().parent.parent)
    try:
        ray.init(
            num_cpus=LOCAL_SLOTS,
            resources={"sandbox": float(os.cpu_count() or 1)},
            include_dashboard=False,
            logging_level=log_level,
            log_to_driver=False,
            object_store_memory=GIB // 2,
            runtime_env={"env_vars": {"PYTHONPATH": root}},
            _system_config={"automatic_object_spilling_enabled": True},
        )
    except Exception as error:  # Ray names no kind of its own
        raise CrucibleError(
            f"Ray did not start on this machine ({one_line(error)}); see that it has memory, disk "
            "under /tmp and time to spare, and start the same command again."
        ) from error


def _cluster_holdings() -> Holdings:
    """What the nodes of a cluster declare."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return holdings_of([declared_node(node["NodeID"], node["Resources"]) for node in nodes])


def _machine_holdings() -> Holdings:
    """What this machine has, or the container that this runs in may use of it."""
    declared = _cluster_holdings()
    memory = min(psutil.virtual_memory().total, _container_limit()) / GIB
    cores = len(os.sched_getaffinity(0))
    return replace(declared, cores=cores, memory_gib=memory, node_gib=(memory,))


def _container_limit() -> float:
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return float("inf") if text == "max" else float(text)
