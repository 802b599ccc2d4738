"""Waves: nothing oversubscribed, nobody left out, and plain words for what does not fit."""

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.connection import Holdings, holdings_of
from cluster.nodes import Node
from cluster.waves import BASE_GIB, Need, pack, pack_waves
from fusion.errors import DoesNotFitError

REWARD = Need("reward", group=1)


def _gpus(*nodes: int) -> Holdings:
    return holdings_of([Node(f"n{i}", 64, 1000, gpus) for i, gpus in enumerate(nodes)])


def _memory(gib: float) -> Holdings:
    return holdings_of([Node("n", 8, gib)])


def _needs(*gpus: int) -> list[Need]:
    return [Need(f"s{i}", group=n) for i, n in enumerate(gpus)]


def _names(waves) -> list[list[str]]:
    return [wave.names for wave in waves]


def test_sources_that_fit_together_are_one_wave():
    assert _names(pack_waves(_needs(4, 2, 2), [], _gpus(8))) == [["s0", "s1", "s2"]]


def test_sources_beyond_the_cluster_go_to_later_waves():
    waves = pack_waves(_needs(8, 4, 4, 8), [], _gpus(8))
    assert _names(waves) == [["s0"], ["s1", "s2"], ["s3"]]


def test_gpus_that_layers_share_lie_on_one_node():
    waves = pack_waves(_needs(6, 6, 4), [], _gpus(8, 8))
    assert _names(waves) == [["s0", "s1"], ["s2"]]


def test_groups_of_a_pipeline_may_lie_on_several_nodes():
    (wave,) = pack_waves([Need("large", group=8, groups=2)], [], _gpus(8, 8))
    assert set(wave.nodes["large"]) == {"n0", "n1"}


def test_the_reward_model_stays_up_where_that_costs_no_wave():
    packed = pack(_needs(4, 2), [REWARD], _gpus(8))
    assert _names(packed.waves) == [["s0", "s1"]] and packed.has_beside


def test_the_reward_model_comes_between_waves_where_it_would_cost_one():
    packed = pack(_needs(4, 4), [Need("reward", group=1, replicas=8)], _gpus(8))
    assert _names(packed.waves) == [["s0", "s1"]] and not packed.has_beside


def test_a_recipe_may_ask_for_smaller_waves():
    waves = pack_waves(_needs(1, 1, 1), [], _gpus(8), at_once=2)
    assert _names(waves) == [["s0", "s1"], ["s2"]]


def test_idle_gpus_become_replicas_of_the_source_with_most_left_to_do():
    needs = [Need(name, group=2, may_grow=True, most=9) for name in ("light", "heavy")]
    (wave,) = pack_waves(needs, [], _gpus(8), work={"light": 1.0, "heavy": 2.5})
    assert wave.replicas == {"light": 1, "heavy": 3}


def test_a_source_grows_no_further_than_it_has_work_for():
    (wave,) = pack_waves([Need("s", group=1, may_grow=True, most=3)], [], _gpus(8))
    assert wave.replicas == {"s": 3}


def test_a_stated_number_of_replicas_stays():
    (wave,) = pack_waves([Need("s", group=1, replicas=2)], [], _gpus(8))
    assert wave.replicas == {"s": 2}


def test_a_source_larger_than_the_cluster_is_refused_with_numbers():
    with pytest.raises(DoesNotFitError, match=r"s0 needs 16 GPUs .*and there are 8 GPUs"):
        pack([Need("s0", group=8, groups=2)], [], _gpus(8))


def test_memory_counts_where_there_are_no_gpus():
    needs = [Need("a", memory_gib=10.0), Need("b", memory_gib=10.0)]
    assert _names(pack_waves(needs, [], _memory(20 + BASE_GIB))) == [["a", "b"]]
    assert _names(pack_waves(needs, [], _memory(19 + BASE_GIB))) == [["a"], ["b"]]


def test_a_replica_s_memory_is_that_of_one_node():
    nodes = holdings_of([Node(f"n{i}", 8, 16) for i in range(4)])
    with pytest.raises(DoesNotFitError, match=r"a needs 40.0 GiB .* 13.0 GiB on the largest node"):
        pack([Need("a", memory_gib=40.0)], [], nodes)
    needs = [Need(name, memory_gib=10.0, replicas=2) for name in ("a", "b", "c")]
    assert _names(pack_waves(needs, [], nodes)) == [["a", "b"], ["c"]]


def test_the_reward_model_comes_between_where_its_replicas_may_lie_on_every_node():
    packed = pack(_needs(8, 8), [Need("reward", group=1, replicas=2)], _gpus(8, 8), at_once=1)
    assert _names(packed.waves) == [["s0"], ["s1"]] and not packed.has_beside


def test_the_reward_model_stays_up_where_a_node_is_whole_wherever_it_lies():
    packed = pack(_needs(8, 8), [REWARD], _gpus(8, 8), at_once=1)
    assert _names(packed.waves) == [["s0"], ["s1"]] and packed.has_beside


def test_of_a_single_wave_the_reward_model_takes_what_is_left_unless_it_is_up_already():
    beside = [Need("reward", group=1, replicas=2)]
    needs = _needs(8, 4, 2)
    assert pack(needs, beside, _gpus(8, 8)).has_beside
    assert not pack(needs, beside, _gpus(8, 8), beside_is_up=True).has_beside


def test_memory_that_is_short_is_said_in_gib():
    with pytest.raises(DoesNotFitError, match=r"a needs 10.0 GiB of memory and there are 5.0 GiB"):
        pack([Need("a", memory_gib=10.0)], [], _memory(5 + BASE_GIB))


SIZES = st.sampled_from([1, 2, 4, 8])


@given(
    st.lists(SIZES, min_size=1, max_size=6),
    st.lists(SIZES, min_size=1, max_size=3),
    st.integers(0, 6),
    st.randoms(use_true_random=False),
)
def test_a_wave_fits_wherever_the_reward_model_and_larger_groups_lie(sizes, nodes, rewards, random):
    """Groups come in the order of their size to any node that has room, as Ray may choose."""
    beside = [Need("reward", group=1, replicas=rewards)] if rewards else []
    try:
        packed = pack(_needs(*sizes), beside, _gpus(*nodes), beside_is_up=True)
    except DoesNotFitError:
        return
    by_name = {need.name: need.group for need in _needs(*sizes)}
    for wave in packed.waves:
        free = list(nodes)
        if packed.has_beside:
            _take(free, [1] * rewards, random.choice)
        groups = sorted((by_name[name] for name in wave.names), reverse=True)
        _take(free, groups, random.choice)


def _take(free: list[int], groups: list[int], choose: Callable[[list[int]], int]) -> None:
    for group in groups:
        roomy = [node for node, left in enumerate(free) if left >= group]
        assert roomy
        free[choose(roomy)] -= group


@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.integers(1, 2), st.booleans()), min_size=1, max_size=8
    ),
    st.lists(st.integers(8, 8), min_size=2, max_size=4),
    st.integers(0, 4),
)
def test_every_source_is_in_one_wave_and_no_node_is_oversubscribed(shapes, nodes, rewards):
    needs = [
        Need(f"s{i}", group=group, groups=groups, may_grow=grows, most=4)
        for i, (group, groups, grows) in enumerate(shapes)
    ]
    beside = [Need("reward", group=1, replicas=rewards)] if rewards else []
    holdings = _gpus(*nodes)
    packed = pack(needs, beside, holdings)
    assert sorted(n for wave in packed.waves for n in wave.names) == sorted(n.name for n in needs)
    by_name = {need.name: need for need in needs}
    for wave in packed.waves:
        used: Counter[str] = Counter()
        for name, replicas in wave.replicas.items():
            assert len(wave.nodes[name]) == by_name[name].groups * replicas
            for node in wave.nodes[name]:
                used[node] += by_name[name].group
        assert all(used[node.name] <= node.gpus for node in holdings.gpu_nodes)
        free = holdings.gpus - used.total()
        assert not packed.has_beside or free >= rewards
