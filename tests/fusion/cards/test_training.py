"""The card of a trained model."""

import yaml

from fusion.cards import training_card
from fusion.recipe import Dpo, Sft

LOG = [{"step": n, "loss": 1 / n, "grad_norm": 0.5, "kl": 0.01} for n in range(1, 41)]


def card(training, **changes):
    given = {
        "name": "run dpo",
        "start": "org/model",
        "revision": "abc",
        "training": training,
        "num_rows": 1234,
        "lineage": {"data": "f00d"},
        "log": LOG,
        "choice": {"chosen": 40, "candidates": [{"step": 40}]},
    }
    return training_card(**{**given, **changes})


def test_it_names_start_data_recipe_and_lineage():
    text = card(Dpo(loss="ipo"))
    head = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == "org/model"
    assert "dpo" in head["tags"]
    assert "1,234 pairs" in text
    assert "loss: ipo" in text
    assert "data: `f00d`" in text


def test_curves_show_the_first_and_the_last_step():
    lines = card(Sft()).splitlines()
    steps = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert steps[0] == "step"
    assert (steps[1], steps[-1]) == ("1", "40")
    assert len(steps) == 11


def test_a_local_start_is_no_hub_id():
    assert "base_model" not in card(Sft(), start="runs/one", revision=None)


def test_no_local_path_is_given_away():
    text = card(Sft(data="/home/me/rows.jsonl"), start="/home/me/runs/one", revision=None)
    assert "/home/me" not in text
    assert "rows.jsonl" in text


def test_the_choice_is_told_with_its_scores():
    candidates = [{"step": 20, "held_out/loss": 0.31}, {"step": 40, "held_out/loss": 0.42}]
    text = card(Dpo(), choice={"chosen": 20, "candidates": candidates})
    assert "those of step 20" in text
    assert "0.31" in text
    assert "0.42" in text


def test_a_training_of_one_step_has_a_card():
    assert "| 1 |" in card(Sft(), log=LOG[:1])
    assert card(Sft(), log=[])
