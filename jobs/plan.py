"""`crucible plan`: the waves of a recipe on a cluster, and what they come to."""

import itertools
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.table import Table

from cluster.connection import Holdings, connected, holdings_of, usable
from cluster.forecast import Forecast, Row, Work, forecast
from cluster.nodes import described_nodes
from cluster.plan import Model, lay_out, misfits
from fusion.errors import DoesNotFitError
from fusion.ingest import DataPath, ingest_key, read_rows
from fusion.recipe import Dataset, Recipe, Source
from fusion.run import Run
from jobs.models import sampling_of, source_askings, to_plan
from jobs.sample import Asking, num_missing
from jobs.speeds import measured_speeds
from services.source import Served


@dataclass(frozen=True)
class Plan:
    """A recipe on a cluster: the waves of the sources that fit, and why others do not."""

    forecast: Forecast
    misfits: Mapping[str, str]


def plan_recipe(recipe: Recipe, holdings: Holdings) -> Plan:
    """Lay the recipe's sources out as a run would, from what is stored of it already.

    Raises:
        DoesNotFitError: nothing fits at all.
    """
    run = Run(recipe)
    sources = asked_sources(recipe)
    works = _works(run, sources)
    models = [to_plan(Served.of(s), works[s.name].left or 0) for s in sources]
    unfit = misfits([*models, target_model(recipe)], recipe.rewards, holdings, recipe.cluster)
    fitting = [m for m in models if m.name not in unfit]
    if models and not fitting:
        raise DoesNotFitError(next(iter(unfit.values())))
    rewards = {name: r for name, r in recipe.rewards.items() if name not in unfit}
    settings = recipe.cluster
    layout = lay_out(fitting, rewards, holdings, settings, at_once=settings.sources_at_once)
    works = {m.name: works[m.name] for m in fitting}
    figures = forecast(recipe, fitting, rewards, layout, holdings, works, measured_speeds(run))
    return Plan(figures, unfit)


def check_fit(recipe: Recipe, holdings: Holdings) -> None:
    """See that sources, reward model, target and training fit the cluster.

    Raises:
        DoesNotFitError: the first that does not, and the nearest that would.
    """
    check_models(recipe, holdings)
    for stage in ("sft", "dpo"):
        check_workers(recipe, stage, holdings)


def check_models(
    recipe: Recipe,
    holdings: Holdings,
    stages: Collection[str] = ("sample", "score", "evaluate"),
) -> None:
    """See that each model that these stages bring up fits alone.

    Raises:
        DoesNotFitError: the first that does not, and the nearest that would.
    """
    sources = asked_sources(recipe) if "sample" in stages else []
    models = [to_plan(Served.of(s), 0) for s in sources]
    target = [target_model(recipe)] if "evaluate" in stages else []
    rewards = recipe.rewards if {"score", "evaluate"} & set(stages) else {}
    unfit = misfits([*models, *target], rewards, holdings, recipe.cluster)
    if unfit:
        raise DoesNotFitError(next(iter(unfit.values())))


def asked_sources(recipe: Recipe) -> list[Source]:
    """The sources that are sampled here and have a domain to answer in."""
    return [s for s in recipe.model_sources if any(s.asks(d.domain) for d in recipe.datasets)]


def check_workers(recipe: Recipe, stage: str, holdings: Holdings) -> None:
    """See that there is a GPU, or a CPU where there are none, for each worker that a training stage
    cannot do without.

    Raises:
        DoesNotFitError: there are fewer.
    """
    section, units = getattr(recipe, stage), holdings.gpus or holdings.cpus
    key = "min_workers" if section.min_workers else "workers"
    workers = getattr(section, key)
    if workers > units:
        kind = "GPUs" if holdings.gpus else "CPUs"
        raise DoesNotFitError(
            f"{stage}.{key} is {workers} and there are {units:g} {kind}; ask for fewer workers."
        )


def target_model(recipe: Recipe) -> Model:
    """The target as evaluation serves it: base, sft and dpo are of one size."""
    return Model("the target", recipe.target.model, recipe.evaluation.engine)


def _works(run: Run, sources: list[Source]) -> dict[str, Work]:
    table = run.shared("prompts").partition(ingest_key(run.recipe))
    prompts = pl.DataFrame(table.read()) if table.num_rows else None
    if prompts is not None:
        return {s.name: _known_work(run, s, source_askings(run, s, prompts)) for s in sources}
    counts = {d.name: _num_prompts(d, run.recipe.cluster.prompts) for d in run.recipe.datasets}
    return {s.name: _expected_work(run.recipe, s, counts) for s in sources}


def _known_work(run: Run, source: Source, askings: list[Asking]) -> Work:
    """From the prompts table, and from the answers that are stored already."""
    answers = sum(a.wanted().height for a in askings)
    left = sum(num_missing(run, a) for a in askings)
    responses = run.shared("responses")
    tokens = pl.concat(
        pl.DataFrame(responses.partition(a.source_key).read(["completion_tokens"])) for a in askings
    )["completion_tokens"]
    mean = tokens.mean()
    if isinstance(mean, int | float):
        return Work(answers, left, float(mean), is_measured=True)
    return Work(answers, left, _assumed_tokens(run.recipe, source))


def _expected_work(recipe: Recipe, source: Source, counts: Mapping[str, int | None]) -> Work:
    wanted = 0
    for dataset in recipe.datasets:
        samples, prompts = recipe.samples(source, dataset), counts[dataset.name]
        if samples and prompts is None:
            return Work(None, None, _assumed_tokens(recipe, source))
        wanted += samples * (prompts or 0)
    return Work(wanted, wanted, _assumed_tokens(recipe, source))


def _assumed_tokens(recipe: Recipe, source: Source) -> float:
    limit = sampling_of(Run(recipe), source, "train").max_tokens
    return float(min(recipe.cluster.answer_tokens, limit))


def _num_prompts(dataset: Dataset, stated: Mapping[str, int]) -> int | None:
    """Prompts of a data set: as stated, counted, or at most its limit."""
    if dataset.name in stated:
        return stated[dataset.name]
    data = DataPath.of(dataset)
    if data.on_hub:
        return dataset.limit
    return sum(1 for _ in itertools.islice(read_rows(data), dataset.limit))


def described(recipe: Recipe, spec: str) -> Holdings:
    """What the recipe may use of a cluster in words.

    Raises:
        BadInputError: the words are not understood, or have no GPU where the recipe wants one.
    """
    return usable(recipe, holdings_of(described_nodes(spec)))


def holdings_at_hand(recipe: Recipe) -> Holdings:
    """What the recipe may use of the cluster of `RAY_ADDRESS`, or of this machine."""
    with connected() as there:
        return usable(recipe, there)


def plan_json(plan: Plan) -> str:
    """The plan as JSON, one key a field."""
    return json.dumps(asdict(plan.forecast) | {"misfits": dict(plan.misfits)}, indent=2)


def plan_table(plan: Plan, title: str) -> Table:
    """One line a model, wave by wave."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    left = ("wave", "model", "nodes")
    for heading in (
        *("wave", "model", "GPUs", "nodes", "weights\nGiB", "KV\nGiB", "at\nonce"),
        *("answers", "M\ntokens", "tokens/s", "hours"),
    ):
        table.add_column(heading, justify="left" if heading in left else "right", overflow="fold")
    for row in plan.forecast.rows:
        table.add_row(*_cells(row, stays=plan.forecast.reward_stays))
    return table


def plan_lines(plan: Plan) -> list[str]:
    """What stands below the table: totals, assumptions, and what does not fit."""
    figures = plan.forecast
    hours = [h for h in figures.wave_hours if h is not None]
    whole = len(hours) == figures.waves
    lines = [
        f"{figures.waves} wave{'s' if figures.waves != 1 else ''}, sampling "
        f"{f'{sum(hours):,.1f} h' if whole else 'for a time not known here'}; "
        f"{_number(figures.answers)} answers, {_number(figures.tokens)} tokens",
        f"stored: {_gib(figures.stored_gib)} of answers and scores, "
        f"{_gib(figures.checkpoints_gib)} of checkpoints",
        *(f"assumed: {text}" for text in figures.assumptions),
    ]
    return [*lines, *(f"does not fit: {text}" for text in plan.misfits.values())]


def _cells(row: Row, *, stays: bool) -> tuple[str, ...]:
    work, split = row.work, row.split
    size = f"{split.tensor}" if split.pipeline == 1 else f"{split.tensor}x{split.pipeline}"
    gpus = f"{row.gpus} ({row.replicas} x {size})" if row.gpus else "CPU"
    beside = "all" if stays else "between"
    speed = ""
    if row.speed:
        speed = f"{row.speed.tokens_a_second:,.0f}{'*' if row.speed.origin == 'at best' else ''}"
    return (
        str(row.wave) if row.wave else beside,
        row.name,
        gpus,
        _nodes(row.nodes),
        f"{row.room.weights_gib:.1f}" if row.room else "",
        f"{row.room.kv_gib:.1f}" if row.room and row.wave else "",
        str(row.at_once) if row.at_once is not None else "",
        _number(work.left) if work else "",
        f"{work.left * work.answer_tokens / 1e6:,.1f}" if work and work.left is not None else "",
        speed,
        f"{row.hours:,.2f}" if row.hours is not None else "",
    )


def _nodes(names: tuple[str, ...]) -> str:
    """The nodes of a model, each once: node 1, node 2."""
    short = [name if len(name) <= len("node 99") else name[:8] for name in dict.fromkeys(names)]
    return ", ".join(short)


def _number(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _gib(value: float | None) -> str:
    return "not known" if value is None else f"{value:,.1f} GiB"
