"""What a job takes along: the code, the recipe and its files, and nothing else."""

import io
import json
import zipfile
from pathlib import Path

import pytest
import yaml

from cluster.package import LARGEST_BYTES, RECIPE_FILE, package
from fusion.errors import BadInputError
from fusion.recipe import Recipe
from fusion.recipe_file import load_recipe

ROOT = Path(__file__).parents[2]


def _recipe(folder: Path, **changes: object) -> Recipe:
    model = folder / "model"
    if not model.exists():
        model.mkdir()
        (model / "config.json").write_text("{}")
    (folder / "prompts.jsonl").write_text(json.dumps({"q": "1?"}) + "\n")
    raw = {
        "name": "small",
        "storage": "/shared/runs",
        "target": {"model": "org/target", "revision": "v1"},
        "sources": [{"name": "one", "model": str(model)}],
        "datasets": [
            {
                "name": "d",
                "path": str(folder / "prompts.jsonl"),
                "domain": "math",
                "fields": {"prompt": "q"},
            }
        ],
    }
    return Recipe.model_validate({**raw, **changes})


def _names(content: bytes) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(content)).namelist())


def test_code_recipe_and_named_files_are_in_it_and_nothing_else(tmp_path):
    names = _names(package(_recipe(tmp_path)).content)
    assert {"jobs/__main__.py", "fusion/errors.py", RECIPE_FILE} <= names
    assert {name for name in names if name.startswith("inputs/")} == {
        "inputs/0-model/config.json",
        "inputs/1-prompts.jsonl",
    }
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"fusion", "cluster", "services", "jobs", "inputs", RECIPE_FILE}
    assert not any("__pycache__" in name for name in names)


def test_its_recipe_names_the_files_where_they_are_unpacked(tmp_path):
    content = package(_recipe(tmp_path)).content
    there = tmp_path / "there"
    zipfile.ZipFile(io.BytesIO(content)).extractall(there)
    recipe = load_recipe(there / RECIPE_FILE)
    assert recipe.sources[0].model == str(there / "inputs" / "0-model")
    assert Path(recipe.datasets[0].path).read_text() == '{"q": "1?"}\n'
    assert recipe.storage == "/shared/runs"


def test_the_same_content_is_the_same_package_and_other_content_is_not(tmp_path):
    first = package(_recipe(tmp_path))
    assert package(_recipe(tmp_path)) == first
    (tmp_path / "model" / "config.json").write_text("{ }")
    assert package(_recipe(tmp_path)).digest != first.digest


def test_what_all_nodes_share_does_not_travel(tmp_path):
    content = package(_recipe(tmp_path), shared=(tmp_path,)).content
    assert not any(name.startswith("inputs/") for name in _names(content))
    raw = yaml.safe_load(zipfile.ZipFile(io.BytesIO(content)).read(RECIPE_FILE))
    assert raw["sources"][0]["model"] == str(tmp_path / "model")


def test_the_rehearsal_s_weights_travel_only_with_its_recipe(tmp_path):
    recipe = load_recipe(ROOT / "rehearsal" / "recipe.yaml")
    there = recipe.model_copy(update={"storage": "/shared"})
    assert any("llama/model.safetensors" in name for name in _names(package(there).content))
    assert not any("safetensors" in name for name in _names(package(_recipe(tmp_path)).content))


def test_more_than_a_job_may_bring_is_refused_with_the_largest_file(tmp_path):
    recipe = _recipe(tmp_path)
    with (tmp_path / "model" / "model.safetensors").open("wb") as file:
        file.truncate(LARGEST_BYTES + 1)
    with pytest.raises(BadInputError, match=rf"most of it {tmp_path}/model, .*--shared"):
        package(recipe)


def test_storage_of_this_machine_alone_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="The storage runs is relative"):
        package(_recipe(tmp_path, storage="runs"))
