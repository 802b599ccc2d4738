"""A model's size from its configuration, against weights that are there."""

import json
import math
from pathlib import Path

import pytest
from safetensors import safe_open

from fusion.architecture import architecture, count_parameters, published_configs
from fusion.recipe import Engine, ModelSize
from fusion.recipe_file import load_recipe

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "rehearsal" / "models"


@pytest.mark.parametrize("name", ["llama", "gemma", "mistral", "qwen", "target", "reward"])
def test_counted_parameters_are_those_in_the_weights(name):
    folder = MODELS / name
    with safe_open(folder / "model.safetensors", "pt") as weights:
        stored = sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
    counted = count_parameters(json.loads((folder / "config.json").read_text()))
    heads = 10 * 256 if name == "reward" else 0  # the classifier's own few outputs
    assert stored - heads <= counted <= stored


# Totals that the models' own safetensors indexes state, in parameters.
@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("google/gemma-2-27b-it", 27_227_128_320),
        ("mistralai/Mistral-Large-Instruct-2407", 122_610_069_504),
        ("Qwen/Qwen2.5-72B-Instruct", 72_706_203_648),
        ("meta-llama/Llama-3.1-70B-Instruct", 70_553_706_496),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("google/gemma-2-9b-it", 9_241_705_984),
    ],
)
def test_published_models_have_their_published_size(model, parameters):
    assert architecture(model, {}).parameters == parameters


def test_every_model_of_the_published_recipes_is_known():
    for file in (ROOT / "recipes" / "fusechat-3.0").glob("*-*.yaml"):
        recipe = load_recipe(file)
        models = {recipe.target.model, recipe.reward.model, *(s.model for s in recipe.sources)}
        assert models - {None} <= set(published_configs())


def test_a_size_stated_in_the_recipe_goes_before_all():
    size = ModelSize(parameters_b=7, layers=32, attention_heads=32, kv_heads=8, head_size=128)
    model = architecture("org/new", {"org/new": size})
    assert (model.parameters, model.origin) == (7_000_000_000, "recipe")
    assert architecture("org/new", {}) is None


def test_experts_make_the_formula_unknown_and_the_stored_weights_count(tmp_path):
    config = {
        "num_local_experts": 8,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    assert architecture(str(tmp_path), {}) is None
    index = {"metadata": {"total_size": 1000}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    model = architecture(str(tmp_path), {})
    assert (model.parameters, model.weights_bytes(Engine())) == (500, 1000)


def test_quantised_weights_are_smaller():
    model = architecture("meta-llama/Llama-3.1-8B-Instruct", {})
    whole = model.weights_bytes(Engine())
    assert model.weights_bytes(Engine(quantization="fp8")) == whole / 2
    assert model.weights_bytes(Engine(quantization="awq")) == whole / 4
    assert model.weights_bytes(Engine(dtype="float32")) == whole * 2
