"""`crucible plan` and `validate --cluster`, of the published recipe and of what does not fit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.__main__ import app

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "recipes" / "fusechat-3.0" / "llama-3.1-8b.yaml"
REHEARSAL = ROOT / "rehearsal" / "recipe.yaml"


def _plan(recipe: Path, cluster: str, *, code: int = 0) -> dict:
    done = CliRunner().invoke(app, ["plan", str(recipe), "--cluster", cluster, "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def _child(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "child.yaml"
    path.write_text(f"extends: {PUBLISHED}\n{text}")
    return path


def test_published_recipe_takes_three_waves_on_one_node_of_eight():
    plan = _plan(PUBLISHED, "1x8xH100-80GB")
    waves: dict[int, int] = {}
    for row in plan["rows"]:
        if row["wave"]:
            waves[row["wave"]] = waves.get(row["wave"], 0) + row["gpus"]
    assert waves == {1: 8, 2: 8, 3: 8}
    assert not plan["reward_stays"] and not plan["misfits"]


@pytest.mark.parametrize("cluster", ["1x8xH100-80GB", "4x8xH100-80GB"])
def test_the_cluster_page_shows_the_plan_of_today(cluster):
    page = (ROOT / "docs" / "cluster.md").read_text()
    plan = _plan(PUBLISHED, cluster)
    _, _, below = page.partition(f"llama-3.1-8b.yaml --cluster {cluster}`:\n\n")
    lines = [line for line in below.partition("\n\n")[0].splitlines() if line.startswith("| ")]
    assert len(lines[1:]) == len(plan["rows"])
    for line, row in zip(lines[1:], plan["rows"], strict=True):
        each = row["split"]["tensor"] * row["split"]["pipeline"]
        assert f"| {row['name']} | {row['gpus']} ({row['replicas']} x {each}) |" in line
        assert line.startswith(f"| {row['wave']} |") or row["wave"] is None
        assert f"| {row['speed']['tokens_a_second']:,.0f} | {row['hours']:.2f} |" in line
        assert row["work"] is None or f"| {row['work']['left']:,} |" in line
    assert f"{plan['answers']:,} answers" in page


def test_published_recipe_is_one_wave_on_four_nodes_with_the_slowest_source_doubled():
    plan = _plan(PUBLISHED, "4x8xH100-80GB")
    replicas = {row["name"]: row["replicas"] for row in plan["rows"]}
    assert plan["waves"] == 1 and plan["reward_stays"]
    assert replicas["mistral-large-2407"] == 2
    assert sum(row["gpus"] for row in plan["rows"]) == 32


def test_hours_follow_a_stated_throughput(tmp_path):
    recipe = _child(tmp_path, "cluster: {throughput: {llama-3.1-70b: 1000}}\n")
    (row,) = [r for r in _plan(recipe, "1x8xH100-80GB")["rows"] if r["name"] == "llama-3.1-70b"]
    assert row["speed"] == {"tokens_a_second": 1000, "origin": "stated"}
    tokens = row["work"]["left"] * row["work"]["answer_tokens"]
    assert row["hours"] == pytest.approx(tokens / 1000 / row["replicas"] / 3600)


def test_what_does_not_fit_is_shown_beside_what_does_and_ends_with_2():
    plan = _plan(PUBLISHED, "1x2xH100-80GB", code=2)
    assert "gemma-2-27b" not in plan["misfits"]
    assert "it needs 4 such GPUs" in plan["misfits"]["mistral-large-2407"]
    assert "reward needs 8 GPUs" in plan["misfits"]["reward"]


def test_a_model_of_unknown_size_is_said_to_be_unknown(tmp_path):
    new = "sources:\n  - {name: new, model: org/new, revision: v1}\n"
    plan = _plan(_child(tmp_path, new), "4x8xH100-80GB")
    assert any("size of new is not known" in text for text in plan["assumptions"])


def test_prompts_of_local_files_are_counted_and_memory_decides_on_cpu():
    plan = _plan(REHEARSAL, "1x2xCPU-16GB")
    assert plan["answers"] > 1000
    assert {row["gpus"] for row in plan["rows"]} == {0}
    assert plan["waves"] == 2  # cluster.sources_at_once


def test_a_recipe_whose_answers_are_all_imported_has_no_wave(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"q": "1?", "a": "1"}\n')
    recipe = tmp_path / "found.yaml"
    recipe.write_text(
        "name: found\n"
        f"storage: {tmp_path}/runs\n"
        f"target: {{model: {ROOT}/rehearsal/models/target}}\n"
        "sources: [{name: s, kind: imported, path: rows.jsonl, fields: {prompt: q, text: a}}]\n"
        "datasets: [{name: d, path: rows.jsonl, domain: math, fields: {prompt: q}}]\n"
    )
    plan = _plan(recipe, "1x2xCPU-16GB")
    assert (plan["waves"], plan["answers"], plan["misfits"]) == (0, 0, {})


def test_the_table_shows_waves_totals_and_assumptions():
    command = ["plan", str(PUBLISHED), "--cluster", "1x8xH100-80GB"]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "3 waves" in done.stdout and "assumed: an answer has 512 tokens" in done.stdout


def _refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 2, done.output
    return " ".join(done.stderr.split())


def test_validate_refuses_a_cluster_that_the_recipe_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = _refused("validate", PUBLISHED, "--cluster", "1x2xH100-80GB")
    assert said.startswith("error:") and "the largest node has 2 GPUs" in said


def test_validate_says_that_a_recipe_fits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["validate", str(PUBLISHED), "--cluster", "1x8xH100-80GB"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output


def test_workers_that_a_training_cannot_do_without_must_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cluster = ("--cluster", "1x8xH100-80GB")
    recipe = _child(tmp_path, "sft: {workers: 16, strategy: fsdp2}\n")
    assert "sft.workers is 16 and there are 8 GPUs" in _refused("validate", recipe, *cluster)
    recipe = _child(tmp_path, "sft: {workers: 16, min_workers: 8, strategy: fsdp2}\n")
    done = CliRunner().invoke(app, ["validate", str(recipe), *cluster])
    assert done.exit_code == 0, done.output


def test_a_recipe_for_gpus_is_refused_on_a_cluster_without():
    assert "there is no GPU" in _refused("plan", PUBLISHED, "--cluster", "2x8xCPU-64GB")


def test_words_that_are_no_cluster_are_refused():
    assert "2x8xH100-80GB" in _refused("plan", PUBLISHED, "--cluster", "eight GPUs")


@pytest.mark.parametrize("columns", [None, "80"])
def test_the_table_keeps_all_that_it_has_to_say(columns):
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {"COLUMNS": columns} if columns else {}
    command = [sys.executable, "-m", "jobs", "plan", str(PUBLISHED), "--cluster", "1x8xH100-80GB"]
    said = subprocess.check_output(command, env=environment, text=True, cwd=ROOT)
    assert "…" not in said
    assert columns or "mistral-large-2407  4 (1 x 4)" in said
