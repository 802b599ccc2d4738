"""The stage ingest over real files and a real store."""

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fusion.errors import BadInputError
from fusion.ingest import import_answers
from fusion.recipe import Recipe
from fusion.recipe_file import load_recipe
from fusion.run import Run, source_key
from jobs.ingest import load_prompts, run_ingest

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("CRUCIBLE_DATA", ROOT.parent / "shared" / "data"))
REAL_PROMPTS = ROOT / "tests" / "integration" / "real_prompts.yaml"


def small_run(folder: Path, **keys: Any) -> Run:
    recipe = {
        "name": "small",
        "storage": str(folder / "runs"),
        "target": {"model": "owner/target", "revision": "main"},
        "sources": [{"name": "one", "model": "owner/one", "revision": "main"}],
        "datasets": [
            {
                "name": "d",
                "path": str(folder / "d.jsonl"),
                "domain": "math",
                "fields": {"prompt": "q"},
            }
        ],
        "malformed_limit": 0.5,
    }
    return Run(Recipe.model_validate({**recipe, **keys}))


def write_rows(folder: Path, *lines: str) -> None:
    (folder / "d.jsonl").write_text("\n".join(lines) + "\n")


def test_stage_writes_prompts_quarantine_and_a_balanced_manifest(tmp_path: Path) -> None:
    write_rows(tmp_path, '{"q": "a"}', '{"q": "b"}', '{"q": "A"}', "{")
    run = small_run(tmp_path)
    manifest = run_ingest(run)
    assert manifest.counts.model_dump() == {
        "entered": 4,
        "results": 2,
        "dropped": {"duplicate": 1},
        "quarantined": {"invalid_json": 1},
        "unit": "rows",
    }
    assert sorted(load_prompts(run)["origin"]) == ["d:1", "d:2"]
    assert run.quarantine("ingest").read()["id"].to_pylist() == ["d:4"]


def test_likeness_is_written_where_a_person_can_read_it(tmp_path: Path) -> None:
    poem = "Write a poem about the moon, the tide, an old boat and the girl who painted it blue"
    write_rows(tmp_path, json.dumps({"q": f"{poem}."}), json.dumps({"q": f"请: {poem} today"}))
    run = small_run(tmp_path)
    assert run_ingest(run).counts.dropped == {"near_duplicate": 1}
    (line,) = map(json.loads, run.ingest_log.read_text().splitlines())
    assert (line["dropped"], line["kept"], line["text"]) == ("d:2", "d:1", f"{poem}.")


def test_every_drop_has_a_line(tmp_path: Path) -> None:
    write_rows(tmp_path, '{"q": "a"}', '{"q": "b"}', '{"q": "A"}', "{")
    run = small_run(tmp_path)
    run_ingest(run)
    (line,) = map(json.loads, run.ingest_log.read_text().splitlines())
    assert (line["dataset"], line["row"], line["rule"]) == ("d", 3, "duplicate")
    assert (line["dropped"], line["kept"]) == ("d:3", "d:1")


def test_stage_done_for_the_same_files_is_skipped(tmp_path: Path) -> None:
    write_rows(tmp_path, '{"q": "a"}')
    run = small_run(tmp_path)
    first = run_ingest(run)
    assert run_ingest(run) == first
    assert len(run.shared("prompts").partition(first.inputs["datasets"]).location.list()) == 1


def test_changed_file_is_ingested_again_beside_the_old_prompts(tmp_path: Path) -> None:
    write_rows(tmp_path, '{"q": "a"}', "{")
    run = small_run(tmp_path)
    first = run_ingest(run)
    write_rows(tmp_path, '{"q": "a"}', '{"q": "b"}')
    second = run_ingest(run)
    assert second.inputs != first.inputs
    assert load_prompts(run).height == 2
    assert run.quarantine("ingest").num_rows == 0
    assert run.shared("prompts").partition(first.inputs["datasets"]).num_rows == 1


def test_recipe_of_another_name_shares_the_prompts(tmp_path: Path) -> None:
    write_rows(tmp_path, '{"q": "a"}')
    run, other = small_run(tmp_path), small_run(tmp_path, name="other")
    key = run_ingest(run).inputs["datasets"]
    assert run_ingest(other).counts.results == 1
    assert len(run.shared("prompts").partition(key).location.list()) == 1


def test_lost_prompts_are_written_again(tmp_path: Path) -> None:
    write_rows(tmp_path, '{"q": "a"}')
    run = small_run(tmp_path)
    run_ingest(run)
    run.shared("prompts").location.delete()
    run_ingest(run)
    assert load_prompts(run).height == 1


def test_ingest_that_leaves_no_train_prompt_stops_and_says_what_took_them(tmp_path: Path) -> None:
    write_rows(tmp_path, '{"q": "a"}', '{"q": "b"}')
    run = small_run(tmp_path)
    run_ingest(run)
    taken = {"name": "d", "path": str(tmp_path / "d.jsonl"), "domain": "math"}
    taken |= {"fields": {"prompt": "q"}, "exclude": {"q": ["a", "b"]}}
    write_rows(tmp_path, '{"q": "a"}', '{"q": "b"}', "{")
    held_out = taken | {"name": "t", "split": "test", "exclude": {}}
    run = small_run(tmp_path, datasets=[taken, held_out])
    for _ in range(2):
        with pytest.raises(BadInputError, match=r"3 train rows .* excluded 2, invalid_json 1; "):
            run_ingest(run)
        assert load_prompts(run).is_empty()
        assert not run.manifest("ingest").exists()
        assert len(run.ingest_log.read_text().splitlines()) == 2
        assert run.quarantine("ingest").read()["id"].to_pylist() == ["d:3", "t:3"]


def test_held_out_prompts_alone_are_ingested(tmp_path: Path) -> None:
    write_rows(tmp_path, '{"q": "a"}')
    dataset = small_run(tmp_path).recipe.datasets[0].model_copy(update={"split": "test"})
    assert run_ingest(small_run(tmp_path, datasets=[dataset.model_dump()])).counts.results == 1


def test_nothing_is_written_for_a_data_set_that_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, "{", "{")
    run = small_run(tmp_path)
    with pytest.raises(BadInputError):
        run_ingest(run)
    assert not run.storage.exists()


@pytest.fixture
def real_recipe(tmp_path: Path) -> Recipe:
    if not DATA.is_dir():
        pytest.skip(f"no public data in {DATA}; set CRUCIBLE_DATA to a folder that holds it")
    parameters = {"data": str(DATA), "models": "models", "storage": str(tmp_path / "runs")}
    return load_recipe(REAL_PROMPTS, parameters)


def test_published_prompts_are_ingested_whole(real_recipe: Recipe) -> None:
    run = Run(real_recipe)
    manifest = run_ingest(run)
    assert manifest.counts.entered == manifest.counts.results == 2663
    prompts = load_prompts(run)
    by_dataset = dict(prompts.group_by("dataset").len().iter_rows())
    assert by_dataset == {
        "mt-bench": 80,
        "arena-hard": 500,
        "gsm8k": 1319,
        "humaneval": 164,
        "cmath": 600,
    }
    row = prompts.row(by_predicate=pl.col("origin") == "humaneval:HumanEval/0", named=True)
    assert row["entry_point"] == "has_close_elements"
    assert "def check(candidate)" in row["tests"]
    assert row["messages"][0]["content"].startswith("Complete this function:\n\nfrom typing")
    chinese = prompts.filter(pl.col("dataset") == "cmath")
    assert set(chinese["language"]) == {"zh"}
    assert chinese["gold"].null_count() == 0


def test_stored_answers_of_gpt_4_are_joined_to_their_prompts(real_recipe: Recipe) -> None:
    run = Run(real_recipe)
    run_ingest(run)
    prompts = load_prompts(run)
    source = real_recipe.source("gpt-4")
    key = source_key(source, source.sampling)
    answers = import_answers(source, key, prompts, malformed_limit=0)
    assert answers.counts.results == answers.counts.entered == 500
    stored = json.loads((DATA / "arena_hard_gpt4_answers.json").read_text())
    asked = {row["instruction"]: row["output"] for row in stored}
    texts = dict(zip(prompts["prompt_id"], prompts["messages"], strict=True))
    for row in answers.responses.to_pylist():
        assert row["text"] == asked[texts[row["prompt_id"]][0]["content"]]
