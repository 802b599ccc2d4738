"""`crucible publish`: a finished run's data set and models, to a folder or the hub."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from fusion import __version__
from fusion.cards import ModelFacts, course, dataset_card, model_card
from fusion.checkpoints import CHOICE_FILE, is_complete
from fusion.errors import BadInputError, CrucibleError
from fusion.publication import Publication, dataset_files, model_files, write_folder
from fusion.recipe_file import recipe_hash
from fusion.run import Run
from fusion.selection import Yields
from fusion.store import Location, Manifest, is_current
from jobs.dpo import dpo_checkpoint, dpo_inputs
from jobs.hub import Hub, hub_ids
from jobs.report import read_log
from jobs.select import counted_entries, dataset_hashes, is_current_selection
from jobs.sft import sft_checkpoint, sft_inputs

Only = Literal["dataset", "models"]
OUTDATED = "was done for other inputs than the run has now"


def publish_run(
    run: Run,
    *,
    folder: str | None = None,
    hub: str | None = None,
    private: bool = False,
    only: Only | None = None,
) -> list[str]:
    """Publish a run to a folder (a path or s3://) or to the hub; returns where things are now.

    Raises:
        BadInputError: neither or both were given, the run is unfinished, the place is not ours or
            cannot be written, or there is no token for the hub.
        CrucibleError: the hub failed.
    """
    if (folder is None) == (hub is None):
        raise BadInputError("Give either --to FOLDER or --hub owner/name.")
    if private and hub is None:
        raise BadInputError("--private is for --hub; a folder is as private as its permissions.")
    check_finished(run, only)
    if folder is not None:
        return _to_folder(run, Location.of(folder), only)
    return _to_hub(run, str(hub), private, only)


def check_finished(run: Run, only: Only | None) -> None:
    """See that what is to be published was made, and from what the run holds now.

    Raises:
        BadInputError: a stage is to do, or was done for earlier inputs.
    """
    if _has_own_data(run):
        _check_selected(run)
    elif only == "dataset":
        raise BadInputError(
            f"Run {run.recipe.name} learned from sft.data and dpo.data and has no data set of its "
            "own; publish its models with --only models."
        )
    if only == "dataset":
        return
    trained: dict[str, tuple[Callable[[Run], dict[str, str]], Callable[[Run], Location]]] = {
        "sft": (sft_inputs, sft_checkpoint),
        "dpo": (dpo_inputs, dpo_checkpoint),
    }
    for stage, (inputs, checkpoint) in trained.items():
        done = Manifest.read(run.manifest(stage))
        if done is None:
            raise _unfinished(run, stage, "is to do")
        if not (is_current(done, inputs(run)) and is_complete(checkpoint(run))):
            raise _unfinished(run, stage, OUTDATED)


def _has_own_data(run: Run) -> bool:
    return not (run.recipe.sft.data and run.recipe.dpo.data)


def _check_selected(run: Run) -> None:
    """Models depend on it too: their cards name the recipe's sources."""
    if Manifest.read(run.manifest("select")) is None:
        raise _unfinished(run, "select", "is to do")
    if not is_current_selection(run):
        raise _unfinished(run, "select", "was done by other rules, or before other stages")


def publications(run: Run, only: Only | None, ids: Mapping[str, str]) -> list[Publication]:
    """The data set, then the models in the order of their training; `ids` are their hub ids."""
    made = []
    select = Manifest.read(run.manifest("select"))
    if only != "models" and select is not None and _has_own_data(run):
        made.append(_dataset(run, select, ids.get("dataset", "FOLDER")))
    data = ids.get("dataset") if made else None
    if only != "dataset":
        made += [_model(run, stage, ids.get(stage, "FOLDER"), data) for stage in ("sft", "dpo")]
    return made


def _to_folder(run: Run, folder: Location, only: Only | None) -> list[str]:
    folder.check_writable()
    made = publications(run, only, {})
    write_folder(made, folder, _facts(run))
    return [str(folder / publication.name) for publication in made]


def _to_hub(run: Run, hub: str, private: bool, only: Only | None) -> list[str]:
    ids = hub_ids(hub)
    made = publications(run, only, ids)
    there = Hub()
    for publication in made:
        there.check(publication, ids[publication.name], private=private)
    return [
        there.upload(publication, ids[publication.name], _facts(run), private=private)
        for publication in made
    ]


def _facts(run: Run) -> dict[str, Any]:
    return {"run": run.recipe.name, "recipe": recipe_hash(run.recipe), "crucible": __version__}


def _dataset(run: Run, select: Manifest, place: str) -> Publication:
    num_rows = {"sft": run.sft().num_rows, "preferences": run.preferences().num_rows}
    card = dataset_card(
        run.recipe,
        Yields.from_json(select.yields),
        num_rows,
        dataset_hashes(run, select.inputs["rules"]),
        entries=counted_entries(run),
        place=place,
    )
    return Publication("dataset", "dataset", dataset_files(run.folder / "dataset", card))


def _model(run: Run, stage: str, place: str, dataset: str | None) -> Publication:
    trained = {"sft": ("sft",), "dpo": ("sft", "dpo")}[stage]
    manifests = {name: Manifest.read(run.manifest(name)) for name in trained}
    checkpoint = sft_checkpoint(run) if stage == "sft" else dpo_checkpoint(run)
    facts = ModelFacts(
        stage=stage,
        rows={name: done.counts.results for name, done in manifests.items() if done},
        lineage={
            "recipe": recipe_hash(run.recipe),
            **{
                f"{s} {n}": h
                for s, done in manifests.items()
                if done
                for n, h in done.inputs.items()
            },
            "crucible": __version__,
        },
        accuracy=_accuracy(run),
        course=_course(run, stage, checkpoint),
    )
    card = model_card(run.recipe, facts, place=place, dataset=dataset)
    return Publication("model", stage, model_files(checkpoint, card))


def _course(run: Run, stage: str, checkpoint: Location) -> str:
    return course(
        read_log(run.training_log(stage)), json.loads((checkpoint / CHOICE_FILE).read_text())
    )


def _accuracy(run: Run) -> dict[str, Any]:
    """What result.json says, nothing where it is not of these models."""
    done = [Manifest.read(run.manifest(stage)) for stage in ("dpo", "evaluate", "report")]
    times = [manifest.finished_at for manifest in done if manifest]
    if len(times) < len(done) or times != sorted(times):
        return {}
    path = run.folder / "result.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())["accuracy"]
    except (FileNotFoundError, ValueError):
        raise CrucibleError(
            f"{path} is away or damaged; `crucible report` makes it again."
        ) from None
    return found


def _unfinished(run: Run, stage: str, why: str) -> BadInputError:
    return BadInputError(
        f"Run {run.recipe.name} is unfinished: the stage {stage} {why}; finish it with "
        "`crucible run`, then publish."
    )
