"""What of a cluster a recipe reckons with."""

import socket

import pytest

from cluster.connection import connected, holdings_of, usable
from cluster.nodes import Node, described_nodes
from fusion.errors import BadInputError, CrucibleError, DoesNotFitError
from fusion.recipe import Recipe

CPU_ONLY = holdings_of([Node("n", 8, 64, has_sandbox=True)])
WITH_GPUS = holdings_of(described_nodes("2x8xH100-80GB"))


def _recipe(**cluster: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "small",
            "target": {"model": "org/target", "revision": "v1"},
            "sources": [{"name": "one", "model": "org/one", "revision": "v1"}],
            "datasets": [
                {"name": "d", "path": "d.jsonl", "domain": "math", "fields": {"prompt": "q"}}
            ],
            "cluster": cluster,
        }
    )


def test_holdings_are_the_sum_of_the_nodes():
    assert (WITH_GPUS.nodes, WITH_GPUS.gpus, len(WITH_GPUS.gpu_nodes)) == (2, 16, 2)
    assert (CPU_ONLY.gpus, CPU_ONLY.gpu_nodes, CPU_ONLY.sandbox_nodes) == (0, (), 1)


def test_a_head_without_cpus_does_no_work():
    head, small, large = Node("head", 0, 64), Node("small", 4, 16), Node("large", 16, 64)
    held = holdings_of([head, large, small])
    assert (held.nodes, held.cpus, held.memory_gib) == (2, 20, 80)
    assert held.cores == 4


def test_a_recipe_for_cpu_leaves_gpus_alone():
    assert usable(_recipe(accelerator="cpu"), WITH_GPUS).gpu_nodes == ()
    assert usable(_recipe(), WITH_GPUS) == WITH_GPUS


def test_a_recipe_for_gpus_is_refused_where_there_is_none():
    with pytest.raises(DoesNotFitError, match="there is no GPU"):
        usable(_recipe(accelerator="gpu"), CPU_ONLY)


def test_under_an_autoscaler_what_the_cluster_grows_to_counts():
    grown = usable(_recipe(accelerator="gpu", grows_to="4x8xH100-80GB"), CPU_ONLY)
    assert grown.gpus == 32
    with pytest.raises(BadInputError, match="as 2x8xH100-80GB"):
        usable(_recipe(grows_to="many"), CPU_ONLY)


def test_a_cluster_that_nobody_answers_for_is_told_at_once(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(BadInputError, match=r"cannot be joined .*refused"), connected():
        pass


def test_an_address_that_is_none_is_told(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "not an address")
    with pytest.raises(BadInputError, match="of RAY_ADDRESS, not an address"), connected():
        pass


def test_a_ray_that_does_not_start_here_is_told_in_a_sentence(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nowhere")
    with pytest.raises(CrucibleError, match="Ray did not start on this machine"), connected():
        pass
