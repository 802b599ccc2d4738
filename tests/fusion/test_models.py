"""Models on disk or on the hub, and vLLM's engine options."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fusion.errors import BadInputError
from fusion.models import (
    check_model,
    context_length,
    known_engine_options,
    mistyped_engine_options,
    unknown_engine_options,
    weights_bytes,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = {"model_type": "llama", "max_position_embeddings": 512}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    return tmp_path


def test_folder_with_configuration_and_tokenizer_is_a_model(folder: Path) -> None:
    check_model(str(folder), None)
    assert context_length(str(folder)) == 512


def test_hub_id_with_a_revision_is_a_model() -> None:
    check_model("owner/name", "main")
    assert context_length("owner/name") is None
    assert weights_bytes("owner/name") is None


@pytest.mark.parametrize(
    ("model", "revision"),
    [("owner/name", None), ("/no/such/folder", "main"), ("name", "main"), ("a/b/c", "main")],
)
def test_anything_else_is_neither(model: str, revision: str | None) -> None:
    with pytest.raises(BadInputError, match="neither a local path nor a hub id with a revision"):
        check_model(model, revision)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "pytorch_model.bin"])
def test_folder_that_lacks_a_file_says_which(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(BadInputError, match=missing.replace("_model", r"_model\*")):
        check_model(str(folder), None)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [("{", "config.json is not JSON"), ("[]", "no JSON object"), ("{}", "names no model_type")],
)
def test_configuration_that_is_none_is_told(folder: Path, config: str, sentence: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(BadInputError, match=sentence):
        check_model(str(folder), None)


def test_shard_that_the_index_names_and_the_folder_lacks_is_told(folder: Path) -> None:
    shards = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / "model-1-of-2.safetensors").write_bytes(b"")
    with pytest.raises(BadInputError, match=r"has no weights model-2-of-2\.safetensors"):
        check_model(str(folder), None)


def test_weights_are_counted_from_files_or_from_the_index(folder: Path) -> None:
    (folder / "pytorch_model.bin").unlink()
    assert weights_bytes(str(folder)) is None
    (folder / "model-1.safetensors").write_bytes(b"x" * 100)
    (folder / "model-2.safetensors").write_bytes(b"x" * 50)
    assert weights_bytes(str(folder)) == 150
    index = {"metadata": {"total_size": 900}, "weight_map": {}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weights_bytes(str(folder)) == 900


def test_unknown_engine_option_is_named_with_the_nearest_known() -> None:
    if known_engine_options() is None:
        pytest.skip("vLLM is not installed, so its engine options cannot be read")
    options = {"tensor_parallel_size": 2, "tensor_paralel_size": 2, "zzzzqqqq": 1, "dtype": "auto"}
    assert unknown_engine_options(options) == [
        ("tensor_paralel_size", "tensor_parallel_size"),
        ("zzzzqqqq", None),
    ]


def test_engine_option_of_another_type_than_vllm_s_is_told() -> None:
    if known_engine_options() is None:
        pytest.skip("vLLM is not installed, so its engine options cannot be read")
    right = {"max_num_batched_tokens": 512, "swap_space": 4, "hf_overrides": {"a": 1}, "seed": 0}
    assert not mistyped_engine_options(right)
    wrong = {"max_num_batched_tokens": "many", "enforce_eager": 1, "seed": True}
    found = [option.name for option in mistyped_engine_options(wrong)]
    assert found == ["max_num_batched_tokens", "enforce_eager", "seed"]


def test_engine_options_are_read_without_importing_vllm() -> None:
    code = (
        "import sys; from fusion.models import known_engine_options as known; known(); "
        "sys.exit('vllm' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
