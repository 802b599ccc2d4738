"""Keys of sources: content, so that equal settings find what is stored."""

import pytest

from fusion.recipe import Sampling, Source
from fusion.run import source_key


def _key(**engine: object) -> str:
    source = {"name": "one", "model": "org/one", "revision": "v1", "engine": engine}
    return source_key(Source.model_validate(source), Sampling())


def test_keys_of_stored_answers_stay_what_they_were():
    assert _key() == "one-e50ab9e2bea3"
    assert _key(dtype="bfloat16", max_model_len=512, quantization="fp8") == "one-32b0056b98d9"


@pytest.mark.parametrize(
    "option",
    [
        {"kv_cache_dtype": "fp8"},
        {"hf_overrides": {"rope_scaling": {"factor": 8}}},
        {"tokenizer": "org/other"},
        {"load_format": "dummy"},
        {"logits_processors": ["mine:Processor"]},
        {"an_option_of_tomorrow": 1},
    ],
)
def test_an_option_that_may_change_answers_gives_another_key(option):
    assert _key(**option) != _key()


def test_values_of_options_that_pass_through_are_in_the_key():
    keys = {_key(hf_overrides={"rope_scaling": {"factor": n}}) for n in (2, 4)}
    assert len(keys) == 2
    assert _key(tokenizer="t", kv_cache_dtype="fp8") == _key(kv_cache_dtype="fp8", tokenizer="t")


@pytest.mark.parametrize(
    "option",
    [
        {"max_num_seqs": 8, "gpu_memory_utilization": 0.5, "tensor_parallel_size": 4},
        {"max_num_batched_tokens": 4096, "enable_chunked_prefill": False},
        {"cpu_offload_gb": 4, "download_dir": "/models", "enable_log_requests": True},
        {"tokenizer": None},
    ],
)
def test_an_option_of_speed_memory_or_logging_keeps_the_key(option):
    assert _key(**option) == _key()
