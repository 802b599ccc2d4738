"""Bad input at the command line: one sentence, exit code 2, before any model is loaded."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fusion.recipe_file import load_recipe
from fusion.run import Run
from jobs.__main__ import app

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "rehearsal" / "models"
PROMPT = {"question": "What is 2 + 2?", "answer": "4"}


@pytest.fixture
def recipe(tmp_path):
    """Writes a good recipe with changes, and gives its path."""
    (tmp_path / "prompts.jsonl").write_text(json.dumps(PROMPT) + "\n")
    sampling = {"max_tokens": 64}
    source = {"name": "llama", "model": str(MODELS / "llama"), "sampling": sampling}
    dataset = {
        "name": "questions",
        "path": "prompts.jsonl",
        "domain": "math",
        "verifier": "math",
        "fields": {"prompt": "question", "gold": "answer"},
    }
    good = {
        "name": "small",
        "storage": str(tmp_path / "runs"),
        "target": {"model": str(MODELS / "target")},
        "sources": [source],
        "datasets": [dataset],
        "evaluation": {"sampling": sampling},
    }

    def write(*, source=None, dataset=None, **changes) -> Path:
        raw = {**good, **changes}
        raw.setdefault("sources", [])
        if source:
            raw["sources"] = [{**good["sources"][0], **source}]
        if dataset:
            raw["datasets"] = [{**good["datasets"][0], **dataset}]
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(raw))
        return path

    return write


def _refusal(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 2, (done.exit_code, done.output, done.exception)
    assert "Traceback" not in done.output
    sentence = " ".join(done.stderr.split())
    assert sentence.startswith("error:")
    return sentence


def test_a_good_recipe_is_accepted(recipe):
    done = CliRunner().invoke(app, ["validate", str(recipe())])
    assert done.exit_code == 0, done.output
    assert "is valid" in done.output


def test_unknown_key(recipe):
    assert "did you mean sources?" in _refusal("run", recipe(soruces=[]))


def test_no_sources_and_no_datasets(recipe):
    assert "sources" in _refusal("run", recipe(sources=[]))
    assert "datasets" in _refusal("run", recipe(datasets=[]))


def test_missing_file(recipe):
    assert "none.jsonl" in _refusal("run", recipe(dataset={"path": "none.jsonl"}))


def test_missing_field_names_the_columns_there_are(recipe):
    fields = {"prompt": "questoin", "gold": "answer"}
    said = _refusal("run", recipe(dataset={"fields": fields}))
    assert "questoin" in said
    assert "question" in said


def test_empty_data_set(recipe, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    assert "empty.jsonl" in _refusal("run", recipe(dataset={"path": "empty.jsonl"}))


def test_a_model_that_is_neither_a_path_nor_a_hub_id_with_a_revision(recipe):
    for model in ("no/such/folder/here", "owner/name"):
        said = _refusal("run", recipe(source={"model": model}))
        assert "neither a local path nor a hub id with a revision" in said


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no') }}", "failed"),
        ("{{ messages[0]['content'] }} done", "generation"),
    ],
)
def test_a_template_that_fails_or_opens_no_reply(recipe, tmp_path, template, words):
    folder = tmp_path / "broken"
    folder.mkdir()
    for file in (MODELS / "llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text(template)
    assert words in _refusal("run", recipe(source={"model": str(folder)}))


def test_an_engine_option_that_vllm_does_not_know(recipe):
    said = _refusal("run", recipe(source={"engine": {"max_num_sequences": 4}}))
    assert "max_num_sequences" in said
    assert "max_num_seqs" in said


def test_a_sampling_option_that_is_unknown_or_out_of_range(recipe):
    assert "temprature" in _refusal("run", recipe(source={"sampling": {"temprature": 1}}))
    assert "top_p" in _refusal("run", recipe(source={"sampling": {"top_p": 1.5}}))


def test_a_margin_upside_down(recipe):
    said = _refusal("run", recipe(selection={"margin": {"low": 1, "high": 0}}))
    assert "above high" in said


def test_a_storage_that_cannot_be_written(recipe):
    assert "/proc/runs" in _refusal("run", recipe(storage="/proc/runs"))


def test_too_many_malformed_rows_stop_the_run_with_count_and_examples(recipe, tmp_path):
    rows = [json.dumps(PROMPT)] * 30 + ["{broken"] * 5
    (tmp_path / "bad.jsonl").write_text("\n".join(rows))
    said = _refusal("run", recipe(dataset={"path": "bad.jsonl"}), "--stage", "ingest")
    assert "5" in said


@pytest.mark.integration
def test_a_recipe_that_does_not_fit_the_machine(recipe):
    engine = {"kv_cache_memory_bytes": 1 << 50}
    said = _refusal("run", recipe(source={"engine": engine}), "--stage", "sample")
    assert "GiB of memory" in said


def test_an_unknown_stage(recipe):
    assert "known are ingest" in _refusal("run", recipe(), "--stage", "smaple")


@pytest.mark.parametrize("command", ["status", "report", "publish"])
@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (None, "There is no run"),
        (b"\xff\xfe\x00", "is no recipe"),
        (b"- a list", "is no recipe"),
        (b"name: x", "target is missing"),
    ],
)
def test_a_folder_that_is_no_run(tmp_path, command, kept, words):
    if kept is not None:
        (tmp_path / "recipe.yaml").write_bytes(kept)
    assert words in _refusal(command, tmp_path)


@pytest.mark.parametrize("place", ["x" * 300, "x\udcff", "~nobody-here/run"])
def test_a_place_that_cannot_be(tmp_path, place):
    for command in ("status", "report"):
        assert "Traceback" not in _refusal(command, place)


def test_a_run_that_has_not_begun(recipe, tmp_path):
    path = recipe(name="later")
    assert "There is no run" in _refusal("status", path)
    assert "has not begun" in _refusal("report", path)
    assert "is unfinished" in _refusal("publish", path, "--to", tmp_path / "out")
    assert "has the id 7" in _refusal("show-mask", path, "--row", "7")


def test_a_folder_in_the_place_of_a_file_is_one_sentence(recipe):
    path = recipe(name="odd")
    run = Run(load_recipe(path))
    (run.folder / "recipe.yaml").write_text(path.read_text())
    Path(run.manifest("select").path).mkdir(parents=True)
    done = CliRunner().invoke(app, ["status", str(path)])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert "select.json" in done.stderr and "Traceback" not in done.output


def test_a_cluster_in_words_is_read_before_anything_else(recipe):
    broken = recipe(source={"model": "no/such/folder/here"})
    for words in ("many", "", "1x8xH100,"):
        assert "NODESxGPUSxKIND" in _refusal("validate", broken, "--cluster", words)
        assert "NODESxGPUSxKIND" in _refusal("plan", broken, "--cluster", words)


def test_an_address_that_nobody_answers(recipe, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert "cannot be joined" in _refusal("plan", recipe())
    assert "No job server" in _refusal("submit", recipe(), "--address", "http://127.0.0.1:9")
    assert "no address of a job server" in _refusal("submit", recipe(), "--address", "HEAD")


def test_failure_of_a_ray_task_is_its_own_sentence_without_ray_s_traceback(monkeypatch):
    from ray.exceptions import RayTaskError

    from fusion.store import StorageError

    cause = StorageError("the disk is full; free some space")
    raised = RayTaskError("write", "Traceback (most recent call last): ...", cause)

    def fail(*_):
        raise raised.as_instanceof_cause()

    monkeypatch.setattr("jobs.verify.verify_file", fail)
    result = CliRunner().invoke(app, ["verify", "answers.jsonl", "--out", "out.jsonl"])
    assert result.exit_code == 1
    assert result.output == "failed: the disk is full; free some space\n"
