"""Waves: nothing oversubscribed, nobody left out, and plain words for what does not fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.connection import Holdings
from cluster.waves import BASE_GIB, Need, pack_waves
from fusion.errors import DoesNotFitError


def _holdings(*, gpus: float = 0, memory_gib: float = 1000) -> Holdings:
    return Holdings(1, cpus=8, cores=8, gpus=gpus, memory_gib=memory_gib, sandbox_nodes=1)


def _gpu_needs(*gpus: int) -> list[Need]:
    return [Need(f"s{i}", n, 0.0) for i, n in enumerate(gpus)]


def test_sources_that_fit_together_are_one_wave():
    waves = pack_waves(_gpu_needs(4, 2, 2), [], _holdings(gpus=8))
    assert waves == [["s0", "s1", "s2"]]


def test_sources_beyond_the_cluster_go_to_later_waves():
    waves = pack_waves(_gpu_needs(8, 4, 4, 8), [], _holdings(gpus=8))
    assert waves == [["s0"], ["s1", "s2"], ["s3"]]


def test_the_reward_model_s_gpu_is_kept_free():
    waves = pack_waves(_gpu_needs(4, 4), [Need("reward", 1, 0.0)], _holdings(gpus=8))
    assert waves == [["s0"], ["s1"]]


def test_a_recipe_may_ask_for_smaller_waves():
    waves = pack_waves(_gpu_needs(1, 1, 1), [], _holdings(gpus=8), at_once=2)
    assert waves == [["s0", "s1"], ["s2"]]


def test_a_source_larger_than_the_cluster_is_refused_with_numbers():
    with pytest.raises(DoesNotFitError, match="s0 needs 16 GPUs and there are 8 GPUs"):
        pack_waves(_gpu_needs(16), [], _holdings(gpus=8))


def test_memory_counts_where_there_are_no_gpus():
    needs = [Need("a", 0, 10.0), Need("b", 0, 10.0)]
    roomy = pack_waves(needs, [], _holdings(memory_gib=20 + BASE_GIB))
    tight = pack_waves(needs, [], _holdings(memory_gib=19 + BASE_GIB))
    assert (roomy, tight) == ([["a", "b"]], [["a"], ["b"]])


@given(st.lists(st.integers(1, 8), min_size=1, max_size=8), st.integers(8, 32))
def test_every_source_is_in_one_wave_and_no_wave_exceeds_the_cluster(gpus, total):
    needs = _gpu_needs(*gpus)
    waves = pack_waves(needs, [], _holdings(gpus=total))
    assert sorted(name for wave in waves for name in wave) == sorted(n.name for n in needs)
    sizes = {n.name: n.gpus for n in needs}
    assert all(sum(sizes[name] for name in wave) <= total for wave in waves)
