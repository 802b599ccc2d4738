import io
import json

import polars as pl
import pytest
from rich.console import Console

from fusion.recipe_file import parse_recipe
from fusion.run import Run
from fusion.store import Manifest
from jobs.report import accuracy_summary, load_report_data, read_log, run_report
from tests.fusion.report.sample import sample_data, sample_tables

SOURCE_KEYS = {"mathilda": "mathilda-1", "coder": "coder-1", "scribe": "scribe-1"}
SCORER_KEYS = ["reward-1", "math-1", "exact-1"]


@pytest.fixture
def run(tmp_path):
    recipe = sample_data(num_train=1, num_test=1).recipe.model_dump()
    return Run(parse_recipe({**recipe, "storage": str(tmp_path)}))


def store(run, tables, data):
    """Everything a finished run has left in its tables, manifests and logs."""
    for source, key in SOURCE_KEYS.items():
        rows = tables.responses.filter(pl.col("source") == source)
        run.shared("responses").partition(key).append(rows.to_arrow())
    for scorer in ("reward", "math", "exact"):
        rows = tables.scores.filter(pl.col("scorer") == scorer)
        run.shared("scores").partition(f"{scorer}-1").append(rows.to_arrow())
    run.preferences().append(data.preferences.to_arrow())
    run.results().append(data.results.to_arrow())
    for stage, manifest in data.manifests.items():
        manifest.write(run.manifest(stage))
    for stage, log in data.logs.items():
        run.training_log(stage).write_text("\n".join(map(json.dumps, log)) + "\n")


def test_report_is_written_from_what_the_stages_left(run):
    tables, data = sample_tables(num_train=12), sample_data(num_train=12, num_test=10)
    store(run, tables, data)
    report = run_report(run, tables.prompts, SOURCE_KEYS, SCORER_KEYS)
    assert json.loads(report.result_file.read_text()) == report.result
    assert set(report.result["accuracy"]) == {"base", "sft", "dpo", *SOURCE_KEYS}
    assert "Fusion takes the target from" in report.page_file.read_text()
    manifest = Manifest.read(run.manifest("report"))
    assert manifest.counts.results == data.results.height
    assert "report" not in report.result["seconds"]


def test_pairs_of_a_selection_that_has_not_finished_are_not_shown(run):
    tables, data = sample_tables(num_train=12), sample_data(num_train=12, num_test=10)
    store(run, tables, data)
    keys = (SOURCE_KEYS, SCORER_KEYS)
    assert load_report_data(run, tables.prompts, *keys).preferences.height
    run.manifest("select").delete()
    assert load_report_data(run, tables.prompts, *keys).preferences.is_empty()


def test_rewards_are_those_of_this_recipes_train_answers(run):
    tables, data = sample_tables(num_train=12), sample_data(num_train=12, num_test=10)
    store(run, tables, data)
    loaded = load_report_data(run, tables.prompts, SOURCE_KEYS, SCORER_KEYS)
    columns = ["domain", "source", "reward"]
    assert (
        loaded.rewards.select(columns)
        .sort(columns)
        .equals(data.rewards.select(columns).sort(columns))
    )
    assert loaded.yields == data.yields


def test_report_made_again_is_the_same(run):
    tables, data = sample_tables(num_train=4), sample_data(num_train=4, num_test=5)
    store(run, tables, data)
    first = run_report(run, tables.prompts, SOURCE_KEYS, SCORER_KEYS)
    page, result = first.page_file.read_bytes(), first.result_file.read_bytes()
    run_report(run, tables.prompts, SOURCE_KEYS, SCORER_KEYS)
    assert (first.page_file.read_bytes(), first.result_file.read_bytes()) == (page, result)


def test_a_run_without_anything_is_reported(run):
    report = run_report(run, sample_tables(num_train=1).prompts, SOURCE_KEYS, SCORER_KEYS)
    assert report.result["accuracy"] == {}
    assert "Nothing has been selected yet." in report.page_file.read_text()


def test_summary_shows_every_model_and_domain(run):
    tables, data = sample_tables(num_train=2), sample_data(num_train=2, num_test=10)
    store(run, tables, data)
    console = Console(width=120, file=io.StringIO())
    report = run_report(run, tables.prompts, SOURCE_KEYS, SCORER_KEYS)
    console.print(accuracy_summary(report))
    text = console.file.getvalue()
    for word in ("base", "dpo", "mathilda", "math", "code", "average", "%"):
        assert word in text


def test_a_log_line_cut_off_by_a_kill_is_passed_over(run):
    log = run.training_log("sft")
    assert read_log(log) == []
    log.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    assert read_log(log) == [{"step": 1, "loss": 2.5}]
