"""Connect to the cluster, or start Ray on this machine."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import ray

from cluster.settings import apply_quiet_defaults, ray_address

# Ray's slots only order work on a machine of our own; waves bound the memory, the kernel
# shares the cores. A cluster keeps the numbers its nodes declare.
LOCAL_SLOTS = 32
GIB = 1 << 30


@dataclass(frozen=True)
class Holdings:
    """What a cluster holds, all its nodes together."""

    nodes: int
    cpus: float
    cores: int
    gpus: float
    memory_gib: float
    sandbox_nodes: int


@contextmanager
def connected(*, log_level: int = logging.ERROR) -> Iterator[Holdings]:
    """Join the cluster of `RAY_ADDRESS`, or start Ray here and stop it at the end."""
    apply_quiet_defaults()
    logging.getLogger("ray").setLevel(log_level)
    address = ray_address()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with _standard_error_kept():
        if address:
            ray.init(address, logging_level=log_level, log_to_driver=False)
        else:
            _start_local(log_level)
    signal.signal(signal.SIGTERM, on_sigterm)  # ray.init takes it for itself
    try:
        yield _cluster_holdings() if address else _machine_holdings()
    finally:
        ray.shutdown()


@contextmanager
def _standard_error_kept() -> Iterator[None]:
    """Hold back what Ray's C++ core writes while it starts; show it only if starting fails."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(before, kept.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)


def _start_local(log_level: int) -> None:
    root = str(Path(__file__).resolve().parent.parent)
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


def _cluster_holdings() -> Holdings:
    """What the nodes of a cluster declare."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = sum(r.get("CPU", 0) for r in resources)
    return Holdings(
        nodes=len(resources),
        cpus=cpus,
        cores=int(cpus),
        gpus=sum(r.get("GPU", 0) for r in resources),
        memory_gib=sum(r.get("memory", 0) for r in resources) / GIB,
        sandbox_nodes=sum(r.get("sandbox", 0) > 0 for r in resources),
    )


def _machine_holdings() -> Holdings:
    """What this machine has, or the container that this runs in may use of it."""
    declared = _cluster_holdings()
    memory = min(psutil.virtual_memory().total, _container_limit())
    return replace(declared, cores=len(os.sched_getaffinity(0)), memory_gib=memory / GIB)


def _container_limit() -> float:
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return float("inf") if text == "max" else float(text)
