"""The stage report: what a run came to, as result.json for programs and report.html for people."""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import polars as pl
import pyarrow.compute as pc
from rich.table import Table as RichTable

from fusion import __version__
from fusion.errors import CrucibleError
from fusion.identity import content_hash, model_fingerprint
from fusion.recipe import Model
from fusion.recipe_file import dump_recipe, recipe_hash
from fusion.report import (
    DatasetInput,
    Lineage,
    ModelInput,
    ReportData,
    build_result,
    render_page,
    train_rewards,
)
from fusion.run import STAGES, Run
from fusion.selection import Yields
from fusion.store import Counts, Location, Manifest, Table
from jobs.score import reward_key
from jobs.stage import StageClock, write_manifest

STAGE = "report"
_PACKAGES = ("ray", "vllm", "torch", "trl", "transformers")


@dataclass(frozen=True)
class Report:
    """Where the two files lie, and what result.json says."""

    result_file: Location
    page_file: Location
    result: dict[str, Any]


def run_report(
    run: Run,
    prompts: pl.DataFrame,
    source_keys: Mapping[str, str],
    scorer_keys: Sequence[str],
) -> Report:
    """Write result.json, report.html and then the manifest of this stage.

    It is never skipped: it takes seconds, and shows whatever the run has so far. `prompts`,
    `source_keys` and `scorer_keys` are those of `run_select`.
    """
    clock = StageClock()
    data = load_report_data(run, prompts, source_keys, scorer_keys)
    report = Report(run.folder / "result.json", run.folder / "report.html", build_result(data))
    report.result_file.write_text(json.dumps(report.result, indent=2, allow_nan=False) + "\n")
    report.page_file.write_text(render_page(data))
    num_answers = data.results.height
    counts = Counts(entered=num_answers, results=num_answers, unit="answers")
    write_manifest(run, STAGE, clock, inputs=_inputs(run, data), counts=counts)
    return report


def load_report_data(
    run: Run,
    prompts: pl.DataFrame,
    source_keys: Mapping[str, str],
    scorer_keys: Sequence[str],
) -> ReportData:
    """All that the report shows, of the stages that have finished."""
    manifests = _manifests(run)
    select = manifests.get("select")
    preferences = _frame(run.preferences())
    return ReportData(
        recipe=run.recipe,
        results=_frame(run.results()),
        preferences=preferences if select else preferences.clear(),
        rewards=_rewards(run, prompts, source_keys, scorer_keys),
        yields=Yields.from_json(select.yields) if select else None,
        lineage=_lineage(run, prompts, source_keys),
        manifests=manifests,
        logs={stage: read_log(run.training_log(stage)) for stage in ("sft", "dpo")},
    )


def accuracy_summary(report: Report) -> RichTable:
    """The accuracy by model and domain, for a terminal."""
    accuracy = report.result["accuracy"]
    domains = list(dict.fromkeys(domain for of in accuracy.values() for domain in of))
    domains.sort(key=lambda domain: (domain == "average", domain))
    table = RichTable("model", title="Accuracy on held-out prompts, with 95% intervals")
    for domain in domains:
        table.add_column(domain, justify="right")
    for model, of in accuracy.items():
        table.add_row(model, *(_summary_cell(of.get(domain)) for domain in domains))
    return table


def read_log(location: Location) -> list[dict[str, Any]]:
    """The JSON lines of a training log; a last line that a killed trainer left half is passed over.

    Empty where there is no log.

    Raises:
        CrucibleError: it is damaged.
    """
    if not location.exists():
        return []
    whole_lines = location.read_text().split("\n")[:-1]
    try:
        return [json.loads(line) for line in whole_lines if line.strip()]
    except ValueError:
        raise CrucibleError(f"{location} is not JSON; delete it to go on without it.") from None


def _manifests(run: Run) -> dict[str, Manifest]:
    """Those of the stages before this one: a report says the same when it is made again."""
    found = {stage: Manifest.read(run.manifest(stage)) for stage in STAGES if stage != STAGE}
    return {stage: manifest for stage, manifest in found.items() if manifest is not None}


def _rewards(
    run: Run, prompts: pl.DataFrame, source_keys: Mapping[str, str], scorer_keys: Sequence[str]
) -> pl.DataFrame:
    columns = ["response_id", "prompt_id", "source", "sample_index"]
    responses, scores = run.shared("responses"), run.shared("scores")
    has_reward = pc.field("reward").is_valid()
    return train_rewards(
        run.recipe,
        prompts,
        pl.concat(_frame(responses.partition(key), columns) for key in source_keys.values()),
        pl.concat(
            _frame(scores.partition(key), ["response_id", "reward"], has_reward)
            for key in scorer_keys
        ),
    )


def _frame(table: Table, columns: list[str] | None = None, is_wanted: Any = None) -> pl.DataFrame:
    return pl.DataFrame(table.read(columns, is_wanted))


def _lineage(run: Run, prompts: pl.DataFrame, source_keys: Mapping[str, str]) -> Lineage:
    recipe = run.recipe
    num_prompts = dict(prompts.group_by("dataset").len().iter_rows())
    return Lineage(
        recipe_hash=recipe_hash(recipe),
        recipe_yaml=dump_recipe(recipe),
        models=tuple(_models(run, source_keys)),
        datasets=tuple(
            DatasetInput(d.name, d.path, d.revision, d.domain, d.split, num_prompts.get(d.name, 0))
            for d in recipe.datasets
        ),
        versions=_versions(),
    )


def _models(run: Run, source_keys: Mapping[str, str]) -> Iterator[ModelInput]:
    recipe = run.recipe
    yield _model_input("target", "base", recipe.target)
    for source in recipe.sources:
        if source.kind == "imported":
            key = source_keys.get(source.name, "")
            yield ModelInput("imported answers", source.name, str(source.path), None, key)
        else:
            model = Model(model=str(source.model), revision=source.revision)
            yield _model_input("source", source.name, model)
    for name, reward in recipe.rewards.items():
        if served := reward.served_model:
            yield _model_input("reward model", name, served)
        elif reward.judge:
            yield ModelInput("judge", name, str(reward.model), None, reward_key(name, reward))
        elif reward.kind == "imported":
            yield ModelInput(
                "imported rewards", name, str(reward.path), None, reward_key(name, reward)
            )


def _model_input(role: str, name: str, model: Model) -> ModelInput:
    fingerprint = model_fingerprint(model.model, model.revision)
    return ModelInput(role, name, model.model, model.revision, fingerprint)


def _versions() -> dict[str, str]:
    """Versions where the report is made; vLLM's build for CPUs has a name of its own."""
    versions = {"crucible": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        for name in (package, f"{package}-cpu"):
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                continue
    return versions


def _inputs(run: Run, data: ReportData) -> dict[str, str]:
    manifests = {
        f"manifests/{stage}": content_hash(manifest.model_dump(mode="json"))
        for stage, manifest in data.manifests.items()
    }
    tables = {"results": run.results(), "preferences": run.preferences()}
    return manifests | {name: table.fingerprint() for name, table in tables.items()}


def _summary_cell(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return "-"
    low, high = 100 * interval["low"], 100 * interval["high"]
    return f"{100 * interval['value']:.1f}% [dim]{low:.0f} to {high:.0f}[/dim]"
