"""The data set card: what its front matter and its tables say."""

import yaml

from fusion.cards import dataset_card
from fusion.entries import AnswersAsked, Entries, RowsRead


def card_of(world, answer, entries=None, **selection):
    answers = [
        answer("instruction/1", index=i, text=f"{i}", reward=r)
        for i, r in enumerate([0.1, 0.15, 0.5])
    ] + [answer("instruction/2", text=" ", reward=0.1)]
    built = world(answers, **selection)
    selected = built.select()
    num_rows = {"sft": selected.sft.height, "preferences": selected.preferences.height}
    return dataset_card(built.recipe, selected.yields, num_rows, {"rules": "abc"}, entries=entries)


def test_front_matter_names_the_files_of_tables_that_have_rows(world, answer):
    card = card_of(world, answer, rejected="lowest_in_range", margin={"low": 0.3, "high": 0.36})
    front = yaml.safe_load(card.split("---")[1])
    assert [config["config_name"] for config in front["configs"]] == ["preferences"]
    assert front["configs"][0]["data_files"] == [
        {"split": "train", "path": "preferences/*.parquet"}
    ]
    assert front["language"] == ["en"]


def test_every_drop_is_listed_with_its_rule(world, answer):
    card = card_of(world, answer)
    assert (
        "| instruction | instruction | 2 | 0 | 0 | 0 | 2 (no_usable_answer 1, margin_high 1) |"
        in card
    )
    assert "| instruction | alpha |  | 4 | 0 | 0 | 0.2125 | 1 (empty 1) |" in card


def test_what_left_before_selection_is_listed_too(world, answer):
    rows = RowsRead("instruction", "instruction", 9, 2, {"duplicate": 4, "invalid_json": 3})
    asked = AnswersAsked("instruction", "instruction", "alpha", 6, 4, {"timeout": 2})
    card = card_of(world, answer, Entries((rows,), (asked,)))
    assert "| instruction | 9 | 2 | 7 (duplicate 4, invalid_json 3) |" in card
    assert "| instruction | alpha | 2 (timeout 2) | 4 |" in card


def test_rules_of_ingest_are_stated(world, answer):
    card = card_of(world, answer)
    assert "- as nearly equal: from 0.8 of equal shingles" in card
    assert "- as contaminated: 13 words in a row shared with a held-out prompt" in card


def test_margin_in_force_is_stated_in_the_reward_s_own_scale(world, answer):
    card = card_of(world, answer, margin={"low": 0.0, "high": 1.0, "unit": "quantile"})
    assert "| instruction | reward | yes | share | 0.4 of paired | 0.4 to 0.4 |" in card
