"""What needs no cluster: prompts, selection and report are made without Ray."""

from io import StringIO

import pytest
import ray
from rich.console import Console

from fusion.errors import BadInputError
from fusion.recipe import Recipe
from fusion.recipe_file import stored_recipe
from fusion.run import Run
from jobs.progress import Progress
from jobs.run import run_recipe
from tests.jobs.small_run import small_recipe, store_answers


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Ten prompts, two answers each; joining a cluster would fail."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    return small_recipe(tmp_path)


@pytest.fixture
def quiet():
    return Progress(Console(file=StringIO()))


def other(recipe, name, **selection):
    return Recipe.model_validate({**recipe.model_dump(), "name": name, "selection": selection})


def test_another_recipe_selects_from_what_is_stored_without_ray(recipe, quiet):
    first = run_recipe(recipe, ["ingest"], quiet)
    store_answers(first)
    run_recipe(recipe, ["select", "report"], quiet)
    assert (first.sft().num_rows, first.preferences().num_rows) == (4, 6)
    # of another name: no stage of it has ever run
    second = run_recipe(other(recipe, "second", margin={"low": 0.06}), ["select"], quiet)
    assert (second.sft().num_rows, second.preferences().num_rows) == (0, 0)
    domains = {"instruction": {"sft_share": 1.0}}
    run_recipe(other(recipe, "second", domains=domains), ["select"], quiet)
    assert (second.sft().num_rows, second.preferences().num_rows) == (10, 0)
    assert first.preferences().num_rows == 6
    assert not ray.is_initialized()


def test_what_an_earlier_start_decided_is_kept(recipe, quiet):
    run_recipe(recipe, ["ingest"], quiet)
    kept = Run(recipe).folder / "recipe.yaml"
    assert stored_recipe(kept.read_bytes(), origin="kept").dpo.precision == "auto"
    kept.write_text(kept.read_text().replace("precision: auto", "precision: bf16"))
    run_recipe(recipe, ["ingest"], quiet)
    assert stored_recipe(kept.read_bytes(), origin="kept").dpo.precision == "bf16"


def test_selecting_before_anything_was_sampled_is_refused_and_replaces_nothing(recipe, quiet):
    with pytest.raises(BadInputError, match="run the stage ingest first"):
        run_recipe(recipe, ["select"], quiet)
    first = run_recipe(recipe, ["ingest"], quiet)
    store_answers(first)
    run_recipe(recipe, ["select"], quiet)
    warmer = recipe.model_dump()
    warmer["sources"][0]["sampling"]["temperature"] = 1.0
    with pytest.raises(BadInputError, match="no answers of one as the recipe has them sampled"):
        run_recipe(Recipe.model_validate(warmer), ["select"], quiet)
    assert first.preferences().num_rows == 6
