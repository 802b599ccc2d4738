import pytest
import yaml

from fusion.cards import ModelFacts, model_card
from fusion.recipe import Recipe

SHARE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}


def make_recipe(tmp_path, **target):
    return Recipe.model_validate(
        {
            "name": "mine",
            "target": {"model": "owner/target", "revision": "v1", **target},
            "sources": [
                {
                    "name": "big",
                    "model": "owner/big",
                    "revision": "v2",
                    "license": "gemma",
                },
                {"name": "local", "model": str(tmp_path / "models" / "local")},
            ],
            "datasets": [
                {"name": "d", "path": "d.jsonl", "domain": "math", "fields": {"prompt": "q"}}
            ],
        }
    )


def facts(stage="dpo"):
    rows = {"sft": 10, "dpo": 20} if stage == "dpo" else {"sft": 10}
    accuracy = {model: {"math": SHARE, "average": SHARE} for model in ("base", "sft", "dpo", "big")}
    return ModelFacts(stage, rows, {"recipe": "abc"}, accuracy)


def front(card):
    return yaml.safe_load(card.split("---")[1])


def test_front_matter_names_base_licence_and_data(tmp_path):
    card = model_card(
        make_recipe(tmp_path, license="llama3.1"), facts(), place="me/mine", dataset="me/data"
    )
    assert front(card)["base_model"] == "owner/target"
    assert front(card)["license"] == "llama3.1"
    assert front(card)["datasets"] == ["me/data"]
    assert 'from_pretrained("me/mine")' in card


def test_what_is_not_known_is_left_out_of_the_front_matter(tmp_path):
    card = model_card(make_recipe(tmp_path, model=str(tmp_path / "target")), facts())
    assert not {"base_model", "license", "datasets"} & front(card).keys()


def test_no_local_path_is_given_away(tmp_path):
    card = model_card(make_recipe(tmp_path, model=str(tmp_path / "target")), facts())
    assert str(tmp_path) not in card
    assert "| local | `local` | not stated |" in card
    assert "| big | `owner/big@v2` | gemma |" in card


@pytest.mark.parametrize(("stage", "models"), [("dpo", "sft dpo"), ("sft", "sft")])
def test_a_model_is_shown_as_far_as_it_was_trained(tmp_path, stage, models):
    card = model_card(make_recipe(tmp_path), facts(stage))
    shown = [line.split(" | ")[0][2:] for line in card.splitlines() if "50.0 (40.0 to" in line]
    assert shown == ["base", *models.split(), "big"]
    assert ("| beta |" in card) == (stage == "dpo")
    assert "| rows | 10 |" in card


def test_accuracy_that_was_not_measured_is_not_made_up(tmp_path):
    card = model_card(make_recipe(tmp_path), ModelFacts("sft", {"sft": 1}, {}))
    assert "Not measured." in card
