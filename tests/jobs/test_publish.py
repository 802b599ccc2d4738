"""Publishing a finished run: to a folder, and to a stand-in of the hub's HTTP API."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import datasets
import huggingface_hub.constants
import pyarrow as pa
import pytest
import yaml
from rich.console import Console

from fusion.checkpoints import upload
from fusion.errors import BadInputError, CrucibleError
from fusion.identity import score_id
from fusion.recipe import Recipe
from fusion.records import SCORES
from fusion.run import Run
from fusion.store import Counts, Location
from jobs.dpo import dpo_checkpoint, dpo_inputs
from jobs.progress import Progress
from jobs.publish import publish_run
from jobs.run import run_recipe
from jobs.score import scorer_keys
from jobs.sft import sft_checkpoint, sft_inputs
from jobs.stage import StageClock, write_manifest
from tests.jobs.hub_stand_in import TOKEN, hub_stand_in
from tests.jobs.small_run import small_recipe, store_answers

TARGET = Path(__file__).parents[2] / "rehearsal" / "models" / "target"
SHARE = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 9}


@pytest.fixture
def selected(tmp_path, monkeypatch):
    """A run with its rows selected and nothing trained."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    run = run_recipe(small_recipe(tmp_path), ["ingest"], quiet())
    store_answers(run)
    return run_recipe(run.recipe, ["select"], quiet())


def quiet():
    return Progress(Console(file=StringIO()))


def reseeded(run):
    """The run with another seed of the split, so that other rows are selected."""
    selection = run.recipe.selection.model_copy(update={"seed": 7})
    return Run(run.recipe.model_copy(update={"selection": selection}))


@pytest.fixture
def finished(selected, tmp_path):
    """The same with checkpoints: the rehearsal's target and what a trainer leaves beside it."""
    finish(selected, tmp_path / "trained")
    return selected


def finish(run, trained):
    trained.mkdir()
    for file in TARGET.iterdir():
        (trained / file.name).write_bytes(file.read_bytes())
    (trained / "training_args.bin").write_bytes(b"a pickle")
    (trained / "trainer_state.json").write_text("{}")
    (trained / "README.md").write_text(f"# Written while training from {trained}\n")
    choice = {"chosen": 2, "candidates": [{"step": 2}]}
    (trained / "choice.json").write_text(json.dumps(choice))
    log = [{"step": step, "loss": 1 / step, "grad_norm": 0.5} for step in (1, 2)]
    for stage, checkpoint, inputs in (
        ("sft", sft_checkpoint, sft_inputs),
        ("dpo", dpo_checkpoint, dpo_inputs),
    ):
        upload(trained, checkpoint(run))
        run.training_log(stage).write_text("".join(json.dumps(row) + "\n" for row in log))
        counts = Counts(entered=9, results=9)
        write_manifest(run, stage, StageClock(), inputs=inputs(run), counts=counts)
    for stage in ("evaluate", "report"):
        write_manifest(run, stage, StageClock(), inputs={}, counts=Counts(entered=9, results=9))
    result = {"accuracy": {model: {"average": SHARE} for model in ("base", "sft", "dpo", "one")}}
    (run.folder / "result.json").write_text(json.dumps(result))


def test_a_folder_holds_data_set_and_models_that_load(finished, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "out"
    places = publish_run(finished, folder=str(folder))
    assert places == [str(folder / name) for name in ("dataset", "sft", "dpo")]
    cache = str(tmp_path / "cache")
    for name, rows in (("sft", 4), ("preferences", 6)):
        loaded = datasets.load_dataset(
            str(folder / "dataset"), name, split="train", cache_dir=cache
        )
        assert loaded.num_rows == rows
    model = AutoModelForCausalLM.from_pretrained(folder / "dpo")
    assert model.config.model_type == "llama"
    assert AutoTokenizer.from_pretrained(folder / "dpo").chat_template


def test_what_the_trainer_keeps_for_itself_is_not_published(finished, tmp_path):
    publish_run(finished, folder=str(tmp_path / "out"))
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not {"training_args.bin", "trainer_state.json"} & names


def test_cards_say_what_is_known_and_give_no_path_away(finished, tmp_path):
    publish_run(finished, folder=str(tmp_path / "out"))
    cards = [path.read_text() for path in sorted((tmp_path / "out").rglob("README.md"))]
    assert len(cards) == 3
    for card in cards:
        assert str(tmp_path) not in card
    assert "| average |" not in cards[0]
    assert "| dpo | 50.0 (25.0 to 75.0) |" in cards[1]
    assert "| dpo |" not in cards[2]


@pytest.mark.parametrize("stage", ["dpo", "evaluate"])
def test_accuracy_of_an_earlier_model_is_not_claimed(finished, tmp_path, stage):
    counts = Counts(entered=9, results=9)
    write_manifest(finished, stage, StageClock(), inputs=dpo_inputs(finished), counts=counts)
    publish_run(finished, folder=str(tmp_path / "out"))
    assert "Not measured." in (tmp_path / "out/dpo/README.md").read_text()


def test_the_card_of_a_run_takes_the_place_of_the_checkpoint_s_and_tells_how_it_went(
    finished, tmp_path
):
    publish_run(finished, folder=str(tmp_path / "out"))
    for stage in ("sft", "dpo"):
        card = (tmp_path / "out" / stage / "README.md").read_text()
        assert "# first: owner/target@v1 fused" in card
        assert "| 2 | 0.5 | 0.5 |" in card
        assert "those of the last step, 2" in card


def test_a_log_that_was_lost_leaves_the_card_without_a_course(finished, tmp_path):
    finished.training_log("dpo").delete()
    publish_run(finished, folder=str(tmp_path / "out"))
    assert "Its log was not kept." in (tmp_path / "out/dpo/README.md").read_text()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("logs/dpo.jsonl", r"dpo\.jsonl is not JSON; delete"), ("result.json", "away or damaged")],
)
def test_a_damaged_file_is_one_sentence(finished, tmp_path, name, sentence):
    path = finished.folder / name
    path.write_text("{\n")
    write_manifest(finished, "report", StageClock(), inputs={}, counts=Counts(entered=9, results=9))
    with pytest.raises(CrucibleError, match=sentence):
        publish_run(finished, folder=str(tmp_path / "out"))


def test_the_mark_has_the_hash_of_every_file(finished, tmp_path):
    from hashlib import sha256

    folder = tmp_path / "out"
    publish_run(finished, folder=str(folder))
    found = json.loads((folder / "crucible.json").read_text())
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    del files["crucible.json"]
    assert found["files"] == {
        name: sha256(path.read_bytes()).hexdigest() for name, path in files.items()
    }


def test_publishing_again_replaces_what_was_published_and_nothing_else(finished, tmp_path):
    folder = tmp_path / "out"
    publish_run(finished, folder=str(folder))
    before = (folder / "crucible.json").read_bytes()
    (folder / "notes.txt").write_text("mine")
    (folder / "dataset/sft/part-of-another-time.parquet").write_text("old")
    publish_run(finished, folder=str(folder))
    assert (folder / "crucible.json").read_bytes() == before
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "dataset/sft/part-of-another-time.parquet").exists()


@pytest.mark.parametrize("second", ["dataset", "models"])
def test_what_only_leaves_out_stays_as_it_was_published(finished, tmp_path, second):
    folder = tmp_path / "out"
    publish_run(finished, folder=str(folder))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    publish_run(finished, folder=str(folder), only=second)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("fact", ["run", "recipe"])
def test_models_do_not_go_beside_the_data_set_of_another_run(finished, tmp_path, fact):
    folder = tmp_path / "out"
    publish_run(finished, folder=str(folder), only="dataset")
    path = folder / "crucible.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {fact: "another"}))
    with pytest.raises(BadInputError, match="holds dataset of another run or recipe"):
        publish_run(finished, folder=str(folder), only="models")
    path.write_text("{")
    with pytest.raises(BadInputError, match="damaged"):
        publish_run(finished, folder=str(folder))


def test_a_folder_of_somebody_else_is_refused(finished, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years of work")
    with pytest.raises(BadInputError, match=r"did not write, such as thesis\.tex"):
        publish_run(finished, folder=str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_an_unfinished_run_is_refused_but_for_its_data_set(selected, tmp_path):
    with pytest.raises(BadInputError, match="the stage sft is to do"):
        publish_run(selected, folder=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert len(publish_run(selected, folder=str(tmp_path / "out"), only="dataset")) == 1


@pytest.mark.parametrize("place", ["/proc/out", "/dev/null/out", "{file}", "{file}/out"])
def test_a_place_that_cannot_be_written_is_one_sentence(selected, tmp_path, place):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(BadInputError, match="cannot be written"):
        publish_run(selected, folder=place.format(file=file), only="dataset")
    assert file.read_text() == "mine"


def test_a_selection_of_another_version_is_one_sentence(selected, tmp_path):
    manifest = selected.manifest("select")
    old = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(old | {"yields": {"margins": {"code": None}}}))
    with pytest.raises(BadInputError, match="run the stage select again"):
        publish_run(selected, folder=str(tmp_path / "out"), only="dataset")


def test_models_of_an_earlier_selection_are_refused(finished, tmp_path):
    other = reseeded(finished)
    run_recipe(other.recipe, ["select"], quiet())
    with pytest.raises(BadInputError, match="sft was done for other inputs"):
        publish_run(other, folder=str(tmp_path / "out"))


def test_a_run_without_anything_selected_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="the stage select is to do"):
        publish_run(Run(small_recipe(tmp_path)), folder=str(tmp_path / "out"), only="dataset")


def test_a_selection_stopped_while_it_replaces_rows_is_unfinished(selected, tmp_path, monkeypatch):
    other = reseeded(selected)
    with monkeypatch.context() as patch:
        patch.setattr(Location, "delete", stop_at_parts(Location.delete))
        with pytest.raises(KeyboardInterrupt):
            run_recipe(other.recipe, ["select"], quiet())
    assert len(selected.sft().location.list()) == 2
    for only in ("dataset", "models"):
        with pytest.raises(BadInputError, match="the stage select is to do"):
            publish_run(other, folder=str(tmp_path / "out"), only=only)
    run_recipe(other.recipe, ["select"], quiet())
    assert len(publish_run(other, folder=str(tmp_path / "out"), only="dataset")) == 1


def stop_at_parts(delete):
    def stop(location):
        if location.name.startswith("part-"):
            raise KeyboardInterrupt
        delete(location)

    return stop


@pytest.mark.parametrize("only", ["dataset", "models", None])
def test_a_selection_by_earlier_rules_is_refused(finished, tmp_path, only):
    other = reseeded(finished)
    run_recipe(other.recipe, ["ingest"], quiet())
    with pytest.raises(BadInputError, match="select was done by other rules"):
        publish_run(other, folder=str(tmp_path / "out"), only=only)
    assert not (tmp_path / "out").exists()


def test_what_a_selection_was_made_of_may_be_away(selected, tmp_path):
    (tmp_path / "questions.jsonl").unlink()
    assert len(publish_run(selected, folder=str(tmp_path / "out"), only="dataset")) == 1


@pytest.mark.parametrize("stage", ["ingest", "sample", "score"])
def test_a_selection_of_what_was_there_before_more_was_made_is_refused(selected, tmp_path, stage):
    counts = Counts(entered=9, results=9)
    write_manifest(selected, stage, StageClock(), inputs={}, counts=counts)
    with pytest.raises(BadInputError, match="select was done by other rules"):
        publish_run(selected, folder=str(tmp_path / "out"), only="dataset")


def test_scores_of_other_answers_leave_a_selection_as_it_is(selected, tmp_path):
    (scorer,) = scorer_keys(selected.recipe)
    row = {"response_id": "f" * 32, "scorer": "reward", "scorer_key": scorer, "reward": 0.5}
    row["score_id"] = score_id(row["response_id"], scorer, "")
    selected.shared("scores").partition(scorer).append(pa.Table.from_pylist([row], SCORES))
    assert publish_run(selected, folder=str(tmp_path / "out"), only="dataset")


def test_a_data_set_that_nothing_was_trained_on_is_not_published_with_the_models(
    selected, tmp_path
):
    data = {stage: {"data": str(tmp_path / "other.jsonl")} for stage in ("sft", "dpo")}
    (tmp_path / "other.jsonl").write_text("{}\n")
    other = Run(Recipe.model_validate(selected.recipe.model_dump() | data))
    finish(other, tmp_path / "trained")
    places = publish_run(other, folder=str(tmp_path / "out"))
    assert places == [str(tmp_path / "out" / name) for name in ("sft", "dpo")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "either --to FOLDER or --hub"),
        ({"folder": "a", "hub": "b/c"}, "either --to FOLDER or --hub"),
        ({"folder": "a", "private": True}, "--private is for --hub"),
        ({"hub": "no-owner"}, "give it as owner/name"),
    ],
)
def test_options_that_make_no_sense_are_refused(finished, options, sentence):
    with pytest.raises(BadInputError, match=sentence):
        publish_run(finished, **options)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with hub_stand_in() as state:
        # Large files go by Git LFS: the stand-in knows nothing of the hub's own chunk store.
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", state.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield state


def test_the_hub_gets_a_repository_for_the_data_set_and_each_model(hub, finished, tmp_path):
    places = publish_run(finished, hub="me/mine", private=True)
    assert places == [
        f"{hub.url}/datasets/me/mine",
        f"{hub.url}/me/mine-sft",
        f"{hub.url}/me/mine",
    ]
    assert all(repository.private for repository in hub.repositories.values())
    model = hub.repositories["model", "me/mine"].files
    assert model["model.safetensors"] == (TARGET / "model.safetensors").read_bytes()
    card = yaml.safe_load(model["README.md"].decode().split("---")[1])
    assert card["datasets"] == ["me/mine"]
    folder = tmp_path / "downloaded"
    for name, data in hub.repositories["dataset", "me/mine"].files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    loaded = datasets.load_dataset(
        str(folder), "preferences", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.num_rows == 6
    assert 'load_dataset("me/mine", "sft"' in (folder / "README.md").read_text()


def test_publishing_to_the_hub_again_takes_stale_parts_away(hub, finished):
    publish_run(finished, hub="me/mine", only="dataset")
    there = hub.repositories["dataset", "me/mine"]
    there.files |= {"sft/part-of-another-time.parquet": b"", "figure.png": b""}
    publish_run(finished, hub="me/mine", only="dataset")
    assert "sft/part-of-another-time.parquet" not in there.files
    assert "figure.png" in there.files
    assert there.commits == 2


def test_a_repository_of_something_else_is_refused_before_any_upload(hub, finished):
    hub.add("model", "me/mine", **{"pytorch_model.bin": b"theirs"})
    with pytest.raises(BadInputError, match=r"did not write, such as pytorch_model\.bin"):
        publish_run(finished, hub="me/mine")
    assert list(hub.repositories) == [("model", "me/mine")]
    assert not hub.large


def test_private_rows_do_not_go_to_a_public_repository(hub, finished):
    hub.add("dataset", "me/mine")
    with pytest.raises(BadInputError, match="is public and --private was given"):
        publish_run(finished, hub="me/mine", private=True)
    assert not hub.large


def test_a_missing_token_is_one_sentence(hub, finished, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(BadInputError, match="There is no Hugging Face token here; set HF_TOKEN"):
        publish_run(finished, hub="me/mine")


def test_a_token_that_is_refused_is_one_sentence(hub, finished, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(BadInputError, match=r"refuses the token for me/mine \(status 401\)"):
        publish_run(finished, hub="me/mine")


def test_a_card_that_the_hub_refuses_is_one_sentence(hub, finished):
    hub.refuses_cards = '"license" must be one of [apache-2.0, ...]'
    with pytest.raises(BadInputError, match=r'does not take me/mine .*"license" must be one of'):
        publish_run(finished, hub="me/mine")


def test_a_hub_that_fails_or_is_not_there_is_one_sentence(hub, finished, monkeypatch):
    hub.fails_with = 418
    with pytest.raises(CrucibleError, match="with status 418; run crucible publish again"):
        publish_run(finished, hub="me/mine")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(CrucibleError, match="could not be reached"):
        publish_run(finished, hub="me/mine")


@pytest.mark.integration
def test_the_command_goes_to_the_endpoint_of_the_environment(hub, finished):
    command = [sys.executable, "-m", "jobs", "publish", str(finished.folder)]
    said = subprocess.run(
        [*command, "--hub", "me/mine", "--only", "dataset"],
        env={**os.environ, "HF_ENDPOINT": hub.url},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout == f"published {hub.url}/datasets/me/mine\n"
