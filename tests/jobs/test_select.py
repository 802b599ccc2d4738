"""The stage select on real tables: what it reads, what it leaves behind, and that TRL takes it."""

import datetime
import random
from io import StringIO
from pathlib import Path

import datasets
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from rich.console import Console

from fusion.errors import BadInputError
from fusion.identity import content_hash, dedupe_key, prompt_id, response_id, score_id
from fusion.recipe import Recipe
from fusion.records import PREFERENCES, PROMPTS, RESPONSES, SCORES, SFT
from fusion.run import Run
from fusion.store import Manifest, Table
from jobs.dpo import run_dpo
from jobs.progress import Progress
from jobs.reference import run_reference
from jobs.run import NOTHING
from jobs.select import check_selected, is_current_selection, run_select, select_inputs
from jobs.sft import run_sft
from tests.training_data import TARGET

KEYS = {"alpha": "alpha-key", "beta": "beta-key"}
SCORERS = ["reward-key", "math-key"]
NUM_PROMPTS = 10
SAMPLES = 3
GOLD = "4"


@pytest.fixture
def run(tmp_path):
    recipe = {
        "name": "small",
        "storage": str(tmp_path),
        "target": {"model": str(tmp_path / "models" / "target")},
        "sources": [{"name": name, "model": f"owner/{name}", "revision": "v1"} for name in KEYS],
        "datasets": [
            {
                "name": domain,
                "path": "p",
                "domain": domain,
                "samples": SAMPLES,
                "fields": {"prompt": "prompt"},
            }
            for domain in ("instruction", "math")
        ],
        "reward": {"model": "owner/reward", "revision": "v1"},
    }
    return Run(Recipe.model_validate(recipe))


def prompt_row(domain, number, split="train"):
    messages = [{"role": "user", "content": f"{domain} question {number}"}]
    return {
        "prompt_id": prompt_id(messages),
        "dedupe_key": dedupe_key(messages),
        "dataset": domain,
        "domain": domain,
        "split": split,
        "language": "en",
        "messages": messages,
        "gold": GOLD,
        "origin": "test",
    }


@pytest.fixture
def prompts():
    rows = [prompt_row(domain, n) for domain in ("instruction", "math") for n in range(NUM_PROMPTS)]
    rows.append(prompt_row("math", 99, split="test"))
    return pl.from_arrow(pa.Table.from_pylist(rows, PROMPTS))


def response_row(prompt, source, index):
    return {
        "response_id": response_id(prompt, KEYS[source], index),
        "prompt_id": prompt,
        "source": source,
        "source_key": KEYS[source],
        "sample_index": index,
        "text": f"{source} says {index}",
        "finish_reason": "stop",
    }


def score_row(response, scorer, *, gold=GOLD, **judgement):
    key = f"{scorer}-key"
    id_ = score_id(response, key, "" if scorer == "reward" else content_hash([gold, None, None]))
    row = {"score_id": id_, "response_id": response, "scorer": scorer, "scorer_key": key}
    return {**row, **judgement}


@pytest.fixture
def stored(run, prompts):
    """Rewards rise with the sample; the last sample is correct, the one past the recipe's n too."""
    responses, scores = run.shared("responses"), run.shared("scores")
    for source, key in KEYS.items():
        rows = [
            response_row(p, source, i) for p in prompts["prompt_id"] for i in range(SAMPLES + 1)
        ]
        # two parts, the ids interleaved
        for part in (rows[::2], rows[1::2]):
            responses.partition(key).append(pa.Table.from_pylist(part, RESPONSES))
        rewards = [
            score_row(row["response_id"], "reward", reward=0.1 + row["sample_index"] / 50)
            for row in rows
        ]
        verdicts = [
            score_row(
                row["response_id"],
                "math",
                verdict="correct" if row["sample_index"] >= SAMPLES - 1 else "wrong",
            )
            for row in rows
        ]
        scores.partition("reward-key").append(pa.Table.from_pylist(rewards, SCORES))
        scores.partition("math-key").append(pa.Table.from_pylist(verdicts, SCORES))
    return run


def load(run, name):
    folder = run.folder / "dataset"
    return datasets.load_dataset(
        folder.path, name, split="train", cache_dir=f"{run.folder.path}/cache"
    )


def test_tables_have_their_schemas_and_the_counts_balance(stored, prompts):
    manifest = run_select(stored, prompts, KEYS, SCORERS)
    sft, preferences = stored.sft().read(), stored.preferences().read()
    assert sft.schema.equals(SFT)
    assert preferences.schema.equals(PREFERENCES)
    assert manifest.counts.unit == "prompts"
    assert manifest.counts.entered == 2 * NUM_PROMPTS
    assert manifest.counts.results == 2 * NUM_PROMPTS
    # instruction: floor(0.4 * 10) and the rest; math: every prompt has a pair
    assert (sft.num_rows, preferences.num_rows) == (4, 6 + 10)
    assert Manifest.read(stored.manifest("select")) == manifest


def test_answers_beyond_the_recipe_s_number_take_no_part(stored, prompts):
    run_select(stored, prompts, KEYS, SCORERS)
    texts = {row["messages"][-1]["content"] for row in stored.sft().read().to_pylist()}
    assert texts == {f"beta says {SAMPLES - 1}"}


def test_held_out_prompts_take_no_part(stored, prompts):
    run_select(stored, prompts, KEYS, SCORERS)
    held_out = set(prompts.filter(split="test")["prompt_id"])
    tables = (stored.sft(), stored.preferences())
    used = {row["prompt_id"] for t in tables for row in t.read(["prompt_id"]).to_pylist()}
    assert held_out
    assert not held_out & used


def test_a_verdict_on_a_corrected_gold_counts_and_the_one_on_the_old_does_not(stored, prompts):
    """Once the gold is 5, the last answer is wrong and the first one correct."""
    run_select(stored, prompts, KEYS, SCORERS)
    before = stored.preferences().read(filter=pc.field("domain") == "math").to_pylist()
    assert {row["chosen"][0]["content"] for row in before} == {"alpha says 2"}
    verdicts = [
        score_row(
            response_id(prompt, key, index),
            "math",
            gold="5",
            verdict="correct" if index == 1 else "wrong",
        )
        for prompt in prompts["prompt_id"]
        for key in KEYS.values()
        for index in range(SAMPLES)
    ]
    stored.shared("scores").partition("math-key").append(pa.Table.from_pylist(verdicts, SCORES))
    corrected = prompts.with_columns(gold=pl.lit("5"))
    run_select(stored, corrected, KEYS, SCORERS)
    after = stored.preferences().read(filter=pc.field("domain") == "math").to_pylist()
    assert {row["chosen"][0]["content"] for row in after} == {"alpha says 1"}
    # a gold that nothing was checked against yet
    manifest = run_select(stored, prompts.with_columns(gold=pl.lit("6")), KEYS, SCORERS)
    (math,) = [row for row in manifest.yields["prompts"] if row["dataset"] == "math"]
    assert math["dropped"] == {"no_usable_answer": NUM_PROMPTS}


def test_any_order_and_sharding_of_the_store_gives_the_same_files(stored, prompts, tmp_path):
    run_select(stored, prompts, KEYS, SCORERS)
    other = Run(stored.recipe.model_copy(update={"storage": str(tmp_path / "other")}))
    rng = random.Random(7)
    for name in ("responses", "scores"):
        keys = KEYS.values() if name == "responses" else SCORERS
        for key in keys:
            rows = stored.shared(name).partition(key).read()
            order = rng.sample(range(rows.num_rows), rows.num_rows)
            for start in range(0, rows.num_rows, 37):
                part = rows.take(order[start : start + 37])
                other.shared(name).partition(key).append(part)
                # and some of it twice
                other.shared(name).partition(key).append(part.slice(0, 3))
    run_select(other, prompts.sample(fraction=1, shuffle=True, seed=3), KEYS, SCORERS)
    assert files_of(other) == files_of(stored)
    assert len(files_of(stored)) == 3


def files_of(run):
    folder = Path(run.folder.path) / "dataset"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_selecting_again_replaces_the_rows(stored, prompts):
    run_select(stored, prompts, KEYS, SCORERS)
    first = stored.preferences().fingerprint()
    run_select(stored, prompts, KEYS, SCORERS)
    assert stored.preferences().fingerprint() == first
    assert len(stored.preferences().location.list()) == 1
    none = stored.recipe.selection.model_copy(update={"pairs_from": ("beta",)})
    other = Run(stored.recipe.model_copy(update={"selection": none}))
    run_select(other, prompts, KEYS, SCORERS)
    assert set(stored.preferences().read(["source"])["source"].to_pylist()) == {"beta"}


def test_inputs_change_with_rules_answers_and_scores_alone(stored, prompts):
    before = select_inputs(stored, prompts, KEYS, SCORERS)
    assert select_inputs(stored, prompts.sample(fraction=1, shuffle=True), KEYS, SCORERS) == before
    seeded = stored.recipe.selection.model_copy(update={"seed": 7})
    other = Run(stored.recipe.model_copy(update={"selection": seeded}))
    assert changed(before, select_inputs(other, prompts, KEYS, SCORERS)) == {"rules"}
    extra = [response_row(prompts["prompt_id"][0], "beta", 9)]
    stored.shared("responses").partition("beta-key").append(pa.Table.from_pylist(extra, RESPONSES))
    after = select_inputs(stored, prompts, KEYS, SCORERS)
    assert changed(before, after) == {"responses/beta-key"}


def test_a_selection_is_current_until_the_rules_are_others(stored, prompts):
    assert not is_current_selection(stored)
    run_select(stored, prompts, KEYS, SCORERS)
    assert is_current_selection(stored)
    seeded = stored.recipe.selection.model_copy(update={"seed": 7})
    assert not is_current_selection(Run(stored.recipe.model_copy(update={"selection": seeded})))


@pytest.mark.parametrize("stage", [run_sft, run_reference, run_dpo])
def test_rows_of_a_stopped_selection_are_not_learned_from(stored, prompts, monkeypatch, stage):
    def stop(table, rows, *, name):
        raise KeyboardInterrupt

    run_select(stored, prompts, KEYS, SCORERS)
    with monkeypatch.context() as patch:
        patch.setattr(Table, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            run_select(stored, prompts, KEYS, SCORERS)
    others = () if stage is run_reference else (Progress(Console(file=StringIO())),)
    with pytest.raises(BadInputError, match="no finished selection to learn from"):
        stage(stored, NOTHING, *others)


def test_an_existing_data_set_needs_no_selection(run, tmp_path):
    check_selected(run, run.recipe.sft.model_copy(update={"data": str(tmp_path / "rows.jsonl")}))


def test_answers_too_long_to_train_on_make_room_for_shorter_ones(stored, prompts):
    alpha = stored.shared("responses").partition("alpha-key")
    is_best = pc.equal(alpha.read()["sample_index"], SAMPLES - 1)
    texts = pc.if_else(is_best, "and on and on " * 40, alpha.read()["text"])
    longer = alpha.read().drop_columns("text").append_column("text", texts)
    alpha.location.delete()
    alpha.append(longer.select(RESPONSES.names))
    fitting = Run(
        stored.recipe.model_copy(
            update={
                "target": stored.recipe.target.model_copy(update={"model": str(TARGET)}),
                "selection": stored.recipe.selection.model_copy(update={"drop_too_long": True}),
                "sft": stored.recipe.sft.model_copy(update={"max_length": 64}),
                "dpo": stored.recipe.dpo.model_copy(update={"max_length": 128}),
            }
        )
    )
    for run, dropped in ((stored, [0] * 4), (fitting, [NUM_PROMPTS, 0] * 2)):
        manifest = run_select(run, prompts, KEYS, SCORERS)
        rows = [row["answers_dropped"] for row in manifest.yields["sources"]]
        assert [row.get("too_long", 0) for row in rows] == dropped
        replies = run.preferences().read(["chosen"])["chosen"].to_pylist()
        is_long = [len(reply[0]["content"]) > 500 for reply in replies]
        assert any(is_long) is (run is stored)
    before = select_inputs(fitting, prompts, KEYS, SCORERS)
    roomier = fitting.recipe.dpo.model_copy(update={"max_length": 129})
    other = Run(fitting.recipe.model_copy(update={"dpo": roomier}))
    assert changed(before, select_inputs(other, prompts, KEYS, SCORERS)) == {"target"}


def changed(before, after):
    return {name for name in before | after if before.get(name) != after.get(name)}


def test_the_card_lets_datasets_load_both_tables_in_trl_s_format(stored, prompts):
    run_select(stored, prompts, KEYS, SCORERS)
    sft, preferences = load(stored, "sft"), load(stored, "preferences")
    assert sft.num_rows == 4
    assert [turn["role"] for turn in sft[0]["messages"]] == ["user", "assistant"]
    row = preferences[0]
    assert row["prompt"][-1]["role"] == "user"
    assert [turn["role"] for turn in row["chosen"]] == ["assistant"]
    assert [turn["role"] for turn in row["rejected"]] == ["assistant"]


def test_trl_takes_the_preferences_as_conversations(stored, prompts):
    trl = pytest.importorskip("trl.data_utils")
    run_select(stored, prompts, KEYS, SCORERS)
    for row in (load(stored, "preferences")[0], load(stored, "sft")[0]):
        assert trl.is_conversational(row)


def test_a_table_without_rows_has_no_configuration(stored, prompts):
    only_sft = {"domains": {"instruction": {"sft_share": 1.0}, "math": {"pairs": False}}}
    recipe = Recipe.model_validate({**stored.recipe.model_dump(), "selection": only_sft})
    manifest = run_select(Run(recipe), prompts, KEYS, SCORERS)
    assert manifest.extra == {"sft": 2 * NUM_PROMPTS, "preferences": 0}
    assert load(stored, "sft").num_rows == 2 * NUM_PROMPTS
    assert "preferences/*.parquet" not in (stored.folder / "dataset" / "README.md").read_text()


def test_the_card_names_models_and_counts_and_no_local_path(stored, prompts, tmp_path):
    run_select(stored, prompts, KEYS, SCORERS)
    card = (stored.folder / "dataset" / "README.md").read_text()
    assert "owner/alpha@v1" in card
    assert "owner/reward@v1" in card
    assert "0.01 to 0.1" in card
    assert "| instruction | instruction | 10 | 4 | 6 | 0 | 0 |" in card
    assert str(tmp_path) not in card


def test_without_any_score_all_prompts_are_dropped_by_name(stored, prompts):
    manifest = run_select(stored, prompts, KEYS, [])
    assert manifest.counts.dropped == {"no_usable_answer": 2 * NUM_PROMPTS}
    assert manifest.finished_at <= datetime.datetime.now(datetime.UTC)
