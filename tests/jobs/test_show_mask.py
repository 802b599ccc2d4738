"""What `crucible show-mask` shows, and what it says of an id that is not there."""

import json
from pathlib import Path

import yaml
from typer.testing import CliRunner

from fusion.recipe_file import load_recipe
from fusion.run import Run
from jobs.__main__ import app
from jobs.show_mask import masks_of_row
from tests.training_data import conversations, pairs

REHEARSAL = Path(__file__).parents[2] / "rehearsal" / "recipe.yaml"


def _recipe(folder: Path) -> Path:
    for name, rows in (("sft", conversations(5)), ("dpo", pairs(5))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "extends": str(REHEARSAL),
        "storage": str(folder),
        "sft": {"data": str(folder / "sft.jsonl")},
        "dpo": {"data": str(folder / "dpo.jsonl"), "max_length": 20},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_only_the_reply_and_its_end_of_turn_are_learned(tmp_path):
    masks = {m.name: m for m in masks_of_row(Run(load_recipe(_recipe(tmp_path))), "2")}
    assert set(masks) == {"sft", "dpo chosen", "dpo rejected"}
    assert masks["sft"].reply.startswith("paper")
    assert masks["sft"].reply.count("<|end|>") == 1
    assert masks["sft"].prompt.rstrip().endswith("<|assistant|>")


def test_what_lies_beyond_max_length_is_told(tmp_path):
    masks = {m.name: m for m in masks_of_row(Run(load_recipe(_recipe(tmp_path))), "2")}
    assert masks["sft"].too_long == 0
    assert masks["dpo rejected"].too_long == masks["dpo rejected"].num_tokens - 20 > 0


def test_the_command_prints_it(tmp_path):
    done = CliRunner().invoke(app, ["show-mask", str(_recipe(tmp_path)), "--row", "2"])
    assert done.exit_code == 0, done.output
    assert "paper<|end|>" in done.output


def test_an_unknown_row_is_bad_input(tmp_path):
    done = CliRunner().invoke(app, ["show-mask", str(_recipe(tmp_path)), "--row", "nothing"])
    assert done.exit_code == 2
    assert "has the id nothing" in " ".join(done.stderr.split())
