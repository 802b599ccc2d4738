"""A replica that dies in the middle of sampling: waited for, asked again, nothing made twice."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.integration.watched import HERE, WatchedRun, is_alive, processes, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

WANTED = 4 * (250 + 250 + 20) + 20 + 4 * 5 + 4
TOO_LONG = 4


def _with_a_long_prompt(folder: Path) -> Path:
    prompts = folder / "long.jsonl"
    rows = [json.dumps({"q": "say river stone " * times}) for times in (1, 400)]
    prompts.write_text("\n".join(rows))
    dataset = {"name": "long", "path": str(prompts), "domain": "instruction"}
    changes = {
        "extends": str(HERE / "sampling.yaml"),
        "datasets": [dataset | {"fields": {"prompt": "q"}, "samples": TOO_LONG}],
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(changes))
    return recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of ingest and sample whose only replica was killed once."""
    folder = tmp_path_factory.mktemp("sampling")
    run = WatchedRun(folder, ("ingest", "sample"), _with_a_long_prompt(folder))
    with run.started() as process:
        wait_until(lambda: run.committed or process.poll() is not None)
        (replica,) = processes(process.pid, "ServeReplica")
        engines = replica.children(recursive=True)
        assert engines
        replica.kill()
        assert len(run.committed) < WANTED / 2
        wait_until(lambda: not any(map(is_alive, engines)), timeout_s=10)
        output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-4000:]
    return run


def test_every_wanted_answer_is_stored_once(run):
    ids = run.stored_ids("responses", "response_id")
    assert len(ids) == len(set(ids)) == WANTED


def test_no_committed_answer_is_generated_again(run):
    assert set(run.stored_ids("responses", "response_id")) <= {id_ for _, id_ in run.taken()}
    assert not run.generated_again()


def test_what_was_in_flight_was_asked_again(run):
    asked = [id_ for _, id_ in run.taken()]
    again = len(asked) - len(set(asked))
    assert 0 < again <= 64


def test_what_no_retry_can_help_is_in_quarantine_after_one_attempt(run):
    manifest = json.loads((run.storage / "sampling" / "manifests" / "sample.json").read_text())
    counts = manifest["counts"]
    assert (counts["results"], counts["quarantined"]) == (WANTED, {"too_long": TOO_LONG})
    folder = run.storage / "sampling" / "quarantine" / "sample"
    rows = [row for part in folder.glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    assert {(row["reason"], row["attempts"]) for row in rows} == {("too_long", 1)}
    assert not {row["id"] for row in rows} & {id_ for _, id_ in run.taken()}


def test_more_answers_and_another_source_generate_only_what_is_missing(run):
    before = run.stored_ids("responses", "response_id")
    recipe = yaml.safe_load(run.recipe.read_text())
    chinese = {"name": "mistral", "domains": ["chinese"], "engine": {"enable_log_requests": True}}
    recipe["sources"] = [chinese]
    recipe["datasets"] += [{"name": "code-train", "samples": 5}]
    run.recipe.write_text(yaml.safe_dump(recipe))
    asked = len(run.taken())
    with run.started() as process:
        output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-4000:]
    after = run.stored_ids("responses", "response_id")
    assert len(after) == len(set(after)) and set(before) < set(after)
    assert {id_ for _, id_ in run.taken()[asked:]} == set(after) - set(before)
    one_more_of_code, chinese_of_mistral = 20, 20 + 5
    assert len(after) == WANTED + one_more_of_code + chinese_of_mistral
