"""Clusters in words, and what Ray's nodes declare."""

import pytest

from cluster.nodes import declared_node, described_nodes, gpu_kind
from fusion.errors import BadInputError


def test_nodes_gpus_and_their_memory_are_read_from_the_words():
    nodes = described_nodes("2x8xH100-80GB")
    assert [node.gpus for node in nodes] == [8, 8]
    assert nodes[0].kind.name == "H100" and 79 < nodes[0].kind.memory_gib < 80


def test_groups_of_different_nodes_are_parted_by_commas():
    nodes = described_nodes("1x8xH100-80GB, 2x16xCPU-64GB")
    assert [node.gpus for node in nodes] == [8, 0, 0]
    assert (nodes[1].cpus, nodes[1].memory_gib) == (16, 64)


def test_a_card_of_two_sizes_is_told_by_its_memory():
    assert gpu_kind("A100", 40).memory_gib < 40 < gpu_kind("A100", 80).memory_gib


def test_an_unknown_card_has_the_memory_that_is_stated_and_no_speed():
    kind = gpu_kind("X9", 48)
    assert 40 < kind.memory_gib < 48 and kind.bandwidth_tb_s is None


@pytest.mark.parametrize(
    "words", ["", "8", "8xH100", "0x8xH100", "2x8x", "2*8*H100", "2x8xH100-", "99999x8xH100"]
)
def test_words_that_are_no_cluster_are_refused_with_an_example(words):
    with pytest.raises(BadInputError, match="as 2x8xH100-80GB"):
        described_nodes(words)


def test_a_ray_node_s_kind_of_gpu_is_in_its_resources():
    declared = {"CPU": 4.0, "GPU": 2.0, "memory": 3 << 30, "accelerator_type:L4": 1.0}
    node = declared_node("id", declared)
    assert (node.gpus, node.kind.name, node.memory_gib) == (2, "L4", 3.0)
    assert declared_node("id", {"CPU": 1.0, "GPU": 1.0}).kind is None
