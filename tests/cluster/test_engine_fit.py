"""Whether models fit on GPUs, against figures worked out by hand."""

import pytest

from cluster.engine_fit import Split, choose_split, room
from cluster.nodes import gpu_kind
from fusion.architecture import architecture
from fusion.errors import DoesNotFitError
from fusion.recipe import Engine

H100 = gpu_kind("H100")
GIB = 1 << 30


def _llama_70b():
    return architecture("meta-llama/Llama-3.1-70B-Instruct", {})


def _choose(model: str, *, gpus_a_node: int = 8, gpus: int = 8, kind=H100, **engine) -> Split:
    return choose_split(
        "one",
        architecture(model, {}),
        Engine(**engine),
        kind=kind,
        gpus_a_node=gpus_a_node,
        gpus=gpus,
        tokens=768,
    )


def test_room_is_memory_less_weights_and_overhead():
    found = room(_llama_70b(), Engine(max_model_len=8192), Split(4, 1), 79.1)
    weights = 70_553_706_496 * 2 / 4 / GIB
    assert found.weights_gib == pytest.approx(weights)
    assert found.kv_gib == pytest.approx(0.9 * 79.1 - weights - 3)
    # keys and values of 80 layers, 8 KV heads over 4 GPUs, 128 wide, 2 bytes
    assert found.kv_tokens == int(found.kv_gib * GIB / (2 * 80 * 2 * 128 * 2))


def test_fewer_kv_heads_than_gpus_are_copied_to_each():
    model = _llama_70b()
    engine = Engine()
    eight = model.kv_bytes_a_token(engine, tensor=8)
    assert eight == model.kv_bytes_a_token(engine) / 8
    assert model.kv_bytes_a_token(engine, tensor=16) == eight


def test_left_open_a_model_gets_the_fewest_gpus_that_decode_all_answers_at_once():
    assert _choose("meta-llama/Llama-3.1-70B-Instruct", max_model_len=8192) == Split(4, 1)
    assert _choose("meta-llama/Llama-3.1-8B-Instruct", max_model_len=8192) == Split(1, 1)


def test_a_model_beyond_one_node_gets_a_pipeline_over_several():
    split = _choose(
        "mistralai/Mistral-Large-Instruct-2407", gpus_a_node=2, gpus=16, max_model_len=8192
    )
    assert split.tensor <= 2 and split.pipeline >= 2 and 88 % split.pipeline == 0


def test_what_the_recipe_states_is_kept():
    stated = {"tensor_parallel_size": 8, "max_model_len": 8192}
    assert _choose("meta-llama/Llama-3.1-70B-Instruct", **stated) == Split(8, 1)


def test_sizes_that_do_not_divide_the_heads_are_refused_with_the_nearest_that_do():
    with pytest.raises(DoesNotFitError, match=r"64 attention heads.*tensor_parallel_size 2\."):
        _choose("meta-llama/Llama-3.1-70B-Instruct", tensor_parallel_size=3, max_model_len=8192)


def test_too_few_gpus_for_the_weights_are_refused_with_the_nearest_that_hold_them():
    with pytest.raises(DoesNotFitError, match=r"66 GiB of weights on each.* tensor_parallel_size"):
        _choose(
            "meta-llama/Llama-3.1-70B-Instruct",
            tensor_parallel_size=2,
            pipeline_parallel_size=1,
            max_model_len=131072,
        )


def test_a_pipeline_that_is_left_open_helps_a_stated_number_of_gpus_out():
    stated = {"tensor_parallel_size": 2, "max_model_len": 131072}
    assert _choose("meta-llama/Llama-3.1-70B-Instruct", **stated) == Split(2, 2)


def test_a_model_that_no_number_of_these_gpus_holds_says_how_many_it_needs():
    with pytest.raises(DoesNotFitError, match="it needs 4 such GPUs"):
        _choose(
            "mistralai/Mistral-Large-Instruct-2407", gpus_a_node=2, gpus=2, max_model_len=131072
        )


def test_tensor_parallelism_over_a_node_is_refused():
    with pytest.raises(DoesNotFitError, match="the largest node has 8 GPUs"):
        _choose("meta-llama/Llama-3.1-70B-Instruct", gpus=16, tensor_parallel_size=16)


def test_a_model_of_unknown_size_gets_what_is_stated():
    assert _choose("org/unknown") == Split(1, 1)
    assert _choose("org/unknown", tensor_parallel_size=4) == Split(4, 1)
