"""A job of a real cluster, submitted with `crucible submit`, that loses workers while it scores."""

import hashlib
import json
import shutil
import subprocess
import textwrap
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
ANSWERS = 18_000  # five blocks of work for the verifiers
STAGES = ("ingest", "sample", "score")


def _write_inputs(folder: Path) -> Path:
    """Questions, answers that were found elsewhere (one in 24 slow to compare), the recipe."""
    prompts, answers = [], []
    for i in range(ANSWERS):
        question = " ".join(textwrap.wrap(hashlib.sha256(str(i).encode()).hexdigest(), 8))
        hard = i % 24 == 0
        gold = rf"\frac{{{i + 1}}}{{{i + 8}}}+\sqrt{{{i + 2}}}" if hard else str(i)
        prompts.append({"question": question, "gold": gold})
        answers.append({"question": question, "text": rf"It is \boxed{{{gold}}}."})
    for name, rows in (("prompts", prompts), ("answers", answers)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "name": "found",
        "storage": str(folder / "runs"),
        "target": {"model": str(ROOT / "rehearsal" / "models" / "target")},
        "evaluation": {"sampling": {"max_tokens": 64}},
        "sources": [
            {
                "name": "elsewhere",
                "kind": "imported",
                "path": "answers.jsonl",
                "fields": {"prompt": "question", "text": "text"},
            }
        ],
        "datasets": [
            {
                "name": "cases",
                "path": "prompts.jsonl",
                "domain": "math",
                "verifier": "math",
                "fields": {"prompt": "question", "gold": "gold"},
            }
        ],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def _ended(process: subprocess.Popen[str], *, code: int) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == code, output[-6000:]
    return output


def _score_parts(storage: Path) -> list[Path]:
    return list((storage / "store" / "scores").rglob("*.parquet"))


@pytest.fixture(scope="module")
def finished(ray_cluster, tmp_path_factory):
    """The recipe and the output of a job that lost two of three workers while it scored.

    The first went without a word, the second was told to go.
    """
    recipe = _write_inputs(tmp_path_factory.mktemp("job"))
    for _ in range(3):
        ray_cluster.add_worker("--num-cpus=1")
    ray_cluster.wait_for_workers(3)
    stages = [option for stage in STAGES for option in ("--stage", stage)]
    job = ray_cluster.submit(recipe, *stages)
    _wait_for_parts(recipe, 1, job)
    ray_cluster.lose("_Check", job, timeout_s=1)
    _wait_for_parts(recipe, 2, job)
    ray_cluster.tell_to_go(next(w for w in ray_cluster.workers if ray_cluster.running(w, "_Check")))
    output = _ended(job, code=0)
    ray_cluster.wait_for_workers(1)
    return recipe, output


def _wait_for_parts(recipe: Path, number: int, job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while len(_score_parts(recipe.parent / "runs")) < number and time.monotonic() < deadline:
        assert job.poll() is None, job.communicate()[0][-6000:]
        time.sleep(0.1)


def test_the_run_completes_with_every_answer_scored_once_after_nodes_are_lost(finished):
    recipe, _ = finished
    run = recipe.parent / "runs"
    rows = [row for part in _score_parts(run) for row in pq.read_table(part).to_pylist()]
    ids = [row["score_id"] for row in rows]
    assert len(ids) == len(set(ids)) == ANSWERS
    assert all(row["verdict"] for row in rows)


def test_the_node_that_was_told_to_go_was_drained_and_the_other_was_not(ray_cluster, finished):
    suddenly, told = sorted(ray_cluster.ends(), key=lambda said: "drain" in said)
    assert suddenly.startswith("Unexpected termination")
    assert told.startswith("Terminated due to preemption") and "SIGTERM" in told


def test_manifests_of_the_job_balance(finished):
    recipe, _ = finished
    for stage in STAGES:
        text = (recipe.parent / "runs" / "found" / "manifests" / f"{stage}.json").read_text()
        counts = json.loads(text)["counts"]
        assert counts["entered"] == counts["results"] == ANSWERS


def test_what_the_job_prints_is_followed(finished):
    _, output = finished
    assert "scoring: 0 rewards, 18000 verdicts" in output and "done" in output


def test_the_same_command_again_finds_the_same_job(ray_cluster, finished):
    recipe, output = finished
    stages = [option for stage in STAGES for option in ("--stage", stage)]
    again = _ended(ray_cluster.submit(recipe, *stages), code=0)
    assert again.splitlines()[0] == output.splitlines()[0]
    listed = _ended(ray_cluster.submit("status"), code=0)
    assert listed.count("SUCCEEDED") == 1


def test_a_wrong_token_is_refused_in_one_sentence(ray_cluster, finished):
    said = _ended(ray_cluster.submit(finished[0], token="wrong"), code=2)
    assert said.startswith("error:") and "refuses the token" in said and "Traceback" not in said


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
def test_storage_that_a_node_does_not_see_is_refused_by_the_job(ray_cluster, finished):
    recipe, _ = finished
    storage = recipe.parent / "runs"
    hidden = ("bwrap", "--dev-bind", "/", "/", "--tmpfs", str(storage), "--")
    ray_cluster.add_worker("--num-cpus=1", around=hidden)
    ray_cluster.wait_for_workers(2)
    said = _ended(ray_cluster.submit(recipe, "--stage", "sample"), code=2)
    assert "does not see in" in " ".join(said.split())
