"""`crucible status`: what of a run is done, what is left, and what is in quarantine."""

from rich.table import Table

from fusion.errors import BadInputError
from fusion.run import STAGES, Run
from fusion.store import Manifest
from jobs.accounts import total_seconds
from jobs.ingest import load_prompts
from jobs.models import run_askings
from jobs.sample import num_missing
from jobs.score import reward_wants, stored_answers, unscored, verdict_wants


def status_table(run: Run) -> Table:
    """One line a stage: state, counts, rate, and what was left out by rule.

    Raises:
        BadInputError: the run was never started.
    """
    if not (run.folder / "recipe.yaml").exists():
        raise BadInputError(f"There is no run {run.folder}; start it with `crucible run`.")
    table = Table(title=f"{run.recipe.name} in {run.folder}", title_justify="left")
    for heading in ("stage", "state", "results", "entered", "seconds", "a second", "left out"):
        right = heading in ("results", "entered", "seconds", "a second")
        table.add_column(heading, justify="right" if right else "left")
    for stage in STAGES:
        table.add_row(stage, *_cells(run, stage))
    return table


def _cells(run: Run, stage: str) -> tuple[str, ...]:
    manifest = Manifest.read(run.manifest(stage))
    if stage in ("sample", "score") and (counted := _in_part(run, stage)):
        return counted
    if manifest is None:
        return ("to do", "", "", "", "", "")
    counts = manifest.counts
    gone = {**counts.dropped, **counts.quarantined}
    return (
        "done",
        f"{counts.results:,}",
        f"{counts.entered:,} {counts.unit}",
        f"{manifest.seconds:.1f}",
        _rate(counts.results, manifest.seconds),
        ", ".join(f"{name} {count:,}" for name, count in gone.items() if count),
    )


def _in_part(run: Run, stage: str) -> tuple[str, ...] | None:
    """How far sampling or scoring is, None where nothing of it is left or begun."""
    if Manifest.read(run.manifest("ingest")) is None:
        return None
    prompts = load_prompts(run)
    askings = run_askings(run, prompts)
    if stage == "sample":
        entered = sum(a.wanted().height for a in askings)
        left = sum(num_missing(run, a) for a in askings)
    else:
        answers = stored_answers(run, prompts, [a.source_key for a in askings])
        wants = [reward_wants(run.recipe, answers), verdict_wants(run.recipe, answers)]
        entered = sum(w.height for w in wants)
        left = sum(unscored(run, w).height for w in wants)
    if left in (0, entered):
        return None
    done = int(entered - left)
    seconds = total_seconds(run, stage)
    unit = "answers" if stage == "sample" else "scores"
    return (
        "in part",
        f"{done:,}",
        f"{entered:,} {unit}",
        f"{seconds:.1f}",
        _rate(done, seconds),
        f"{run.quarantine(stage).num_rows:,} in quarantine",
    )


def _rate(count: int, seconds: float) -> str:
    return f"{count / seconds:,.0f}" if seconds >= 0.1 else ""
