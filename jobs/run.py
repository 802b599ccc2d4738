"""One fusion from prompts to report: the stages in order, each skipped where it is done."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import polars as pl

from cluster.connection import Holdings, connected, usable
from cluster.reach import check_reach
from fusion.errors import BadInputError
from fusion.ingest import DatasetCounts, import_answers
from fusion.models import is_local
from fusion.recipe import Recipe, Training
from fusion.recipe_file import dump_recipe, stored_recipe
from fusion.run import STAGES, Run
from fusion.store import Lease, Location, Manifest
from jobs.accounts import release_after_stop, sample_manifest, score_manifest
from jobs.answering import Answering
from jobs.checking import check_sandbox, uses_code
from jobs.dpo import run_dpo
from jobs.evaluate import run_evaluate
from jobs.ingest import load_prompts, run_ingest
from jobs.models import run_askings, source_keys
from jobs.plan import check_models, check_workers
from jobs.progress import Progress
from jobs.reference import run_reference
from jobs.report import accuracy_summary, run_report
from jobs.score import scorer_keys
from jobs.select import run_select
from jobs.sft import run_sft
from jobs.validate import check_templates

# They read and write tables alone: no Ray is started for them.
WITHOUT_CLUSTER = frozenset({"ingest", "select", "report"})
NOTHING = Holdings(nodes=0, cpus=0, cores=0, gpus=0, memory_gib=0, sandbox_nodes=0)


@dataclass
class Fusion:
    """A run on what a cluster holds; each stage is a method of its name."""

    run: Run
    holdings: Holdings
    progress: Progress
    lease: Lease

    def do(self, stages: Sequence[str]) -> None:
        """Run the stages named, in their order, as long as the lease is ours.

        Raises:
            CrucibleError: a stage failed, or another driver took the run over.
        """
        steps: dict[str, Callable[[], None]] = {
            "ingest": lambda: self._say(run_ingest(self.run)),
            "sample": lambda: self._sample_and_score(stages),
            "score": lambda: None if "sample" in stages else self._sample_and_score(stages),
            "select": self._select,
            "sft": lambda: self._say(run_sft(self.run, self.holdings, self.progress)),
            "reference": lambda: self._say(run_reference(self.run, self.holdings)),
            "dpo": lambda: self._say(run_dpo(self.run, self.holdings, self.progress)),
            "evaluate": self._evaluate,
            "report": self._report,
        }
        for stage in STAGES:
            if stage in stages:
                self.lease.check()
                steps[stage]()

    @property
    def prompts(self) -> pl.DataFrame:
        """The run's prompts, ingested before by it or by a recipe with the same data sets."""
        prompts = load_prompts(self.run)
        if prompts.is_empty():
            raise BadInputError(
                f"Run {self.run.recipe.name} has no prompts yet; run the stage ingest first."
            )
        return prompts

    def _say(self, manifest: Manifest) -> None:
        counts = manifest.counts
        gone = {**counts.dropped, **counts.quarantined}
        details = ", ".join(f"{name} {count:,}" for name, count in gone.items() if count)
        left = f"; left out: {details}" if details else ""
        self.progress.say(
            f"[bold]{manifest.stage}[/bold] {counts.results:,} of {counts.entered:,} "
            f"{counts.unit}{left} ({manifest.seconds:.0f} s)"
        )

    def _sample_and_score(self, stages: Sequence[str]) -> None:
        prompts = self.prompts
        askings = run_askings(self.run, prompts)
        imported = _import_answers(self.run, prompts)
        if "sample" in stages and (again := release_after_stop(self.run, askings)):
            self.progress.say(f"{again:,} answers that failed before are asked once more")
        with Answering(self.run, self.holdings, self.progress) as answering:
            if "sample" in stages:
                at_once = self.run.recipe.cluster.sources_at_once
                answering.run(askings, prompts, score="score" in stages, at_once=at_once)
            if "score" in stages:
                answering.score(prompts, self._keys())
        if "sample" in stages:
            self._say(sample_manifest(self.run, askings, imported))
        if "score" in stages:
            self._say(score_manifest(self.run, prompts, self._keys()))

    def _keys(self) -> list[str]:
        both = [*source_keys(self.run, "train").values(), *source_keys(self.run, "test").values()]
        return list(dict.fromkeys(both))

    def _select(self) -> None:
        keys = source_keys(self.run, "train")
        self._say(run_select(self.run, self.prompts, keys, scorer_keys(self.run.recipe)))

    def _evaluate(self) -> None:
        self._say(run_evaluate(self.run, self.prompts, self.holdings, self.progress))

    def _report(self) -> None:
        keys = source_keys(self.run, "train")
        report = run_report(self.run, self.prompts, keys, scorer_keys(self.run.recipe))
        self.progress.show(accuracy_summary(report))
        self.progress.say(f"[bold]report[/bold] {report.page_file}")


def run_recipe(recipe: Recipe, stages: Sequence[str], progress: Progress) -> Run:
    """Run stages of a recipe under a lease of the run, on the cluster at hand if they need one.

    Raises:
        CrucibleError: bad input, a stage that failed, or another driver at work on this run.
    """
    folder = Run(recipe).folder
    kept = folder / "recipe.yaml"
    with Lease(folder / "leases", "run") as lease, ExitStack() as stack:
        if WITHOUT_CLUSTER.issuperset(stages):
            holdings, run = NOTHING, Run(resolved_before(recipe, kept))
        else:
            holdings = usable(recipe, stack.enter_context(connected()))
            precision = "bf16" if holdings.gpus else "fp32"
            run = Run(resolved(recipe, precision, precision))
            _check_fits(run, stages, holdings)
            num_asked = check_reach(run.folder, _local_models(run.recipe))
            if recipe.cluster.grows_to is not None:
                later = "those that come later are not asked"
                progress.say(f"nodes that reach {run.folder}: {num_asked}; {later}")
        kept.write_text(dump_recipe(run.recipe))
        Fusion(run, holdings, progress, lease).do(stages)
    return run


def resolved_before(recipe: Recipe, kept: Location) -> Recipe:
    """The recipe with what an earlier start decided, left open where there was none."""
    before = stored_recipe(kept.read_bytes(), origin=str(kept)) if kept.exists() else recipe
    return resolved(recipe, before.sft.precision, before.dpo.precision)


def resolved(recipe: Recipe, sft: str, dpo: str) -> Recipe:
    """The recipe with an absolute storage, and these precisions where it leaves them open."""

    def decide(training: Training, precision: str) -> Training:
        auto = training.precision == "auto"
        return training.model_copy(update={"precision": precision} if auto else {})

    changes = {"sft": decide(recipe.sft, sft), "dpo": decide(recipe.dpo, dpo)}
    return recipe.model_copy(update={**changes, "storage": str(Run(recipe).storage)})


def _check_fits(run: Run, stages: Sequence[str], holdings: Holdings) -> None:
    """Refuse before the first expensive step what would not run later."""
    recipe = run.recipe
    check_templates(recipe, stages)
    check_models(recipe, holdings, stages)
    for stage in ("sft", "dpo"):
        if stage in stages:
            check_workers(recipe, stage, holdings)
    if uses_code(recipe) and {"score", "evaluate"} & set(stages):
        check_sandbox(recipe, holdings)


def _local_models(recipe: Recipe) -> list[str]:
    rewards = [r.served_model.model for r in recipe.rewards.values() if r.served_model]
    models = [*(str(s.model) for s in recipe.model_sources), recipe.target.model, *rewards]
    return [model for model in models if is_local(model)]


def _import_answers(run: Run, prompts: pl.DataFrame) -> list[DatasetCounts]:
    """Commit the answers of imported sources, each under the key of its file."""
    keys = source_keys(run, "train")
    counts = []
    for source in run.recipe.sources:
        if source.kind != "imported":
            continue
        table = run.shared("responses").partition(keys[source.name])
        made = import_answers(
            source, keys[source.name], prompts, malformed_limit=run.recipe.malformed_limit
        )
        if len(table.missing(made.responses["response_id"])):
            table.append(made.responses)
        quarantine = run.quarantine("sample")
        if len(quarantine.missing(made.quarantined["id"])):
            quarantine.append(made.quarantined)
        counts.append(made.counts)
    return counts
