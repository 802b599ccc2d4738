"""Which models answer which prompts: the sources by data set, the target's checkpoints held-out."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl
from ray import serve

from cluster.connection import Holdings
from cluster.engine_fit import Split
from cluster.plan import Model, lay_out
from fusion.recipe import Recipe, Sampling, Source
from fusion.run import Run, source_key
from jobs.sample import Asking
from services.applications import reward_application_name, source_application_name
from services.reward import reward_application
from services.source import Served, source_application

SPLITS = ("train", "test")


def sampling_of(run: Run, source: Source, split: str) -> Sampling:
    """A source answers training prompts as its section says, held-out ones as evaluation says."""
    return source.sampling if split == "train" else run.recipe.evaluation.sampling


def source_keys(run: Run, split: str) -> dict[str, str]:
    """The key of every source's answers to the prompts of a split."""
    return {s.name: source_key(s, sampling_of(run, s, split)) for s in run.recipe.sources}


def source_askings(run: Run, source: Source, prompts: pl.DataFrame) -> list[Asking]:
    """What a source is to be asked: its training prompts and its held-out ones.

    A key has one asking: both are in it where evaluation samples as the source does.
    """
    splits_of: dict[str, list[str]] = defaultdict(list)
    for split in SPLITS:
        splits_of[source_key(source, sampling_of(run, source, split))].append(split)
    return [
        Asking(
            served=Served.of(source),
            source_key=key,
            sampling=sampling_of(run, source, splits[0]),
            prompts=prompts.filter(pl.col("split").is_in(splits)),
            samples={d.name: run.recipe.samples(source, d) for d in run.recipe.datasets},
        )
        for key, splits in splits_of.items()
    ]


def run_askings(run: Run, prompts: pl.DataFrame) -> list[Asking]:
    """What all sources are to be asked, each key once; a source without prompts is left out."""
    askings = [a for s in run.recipe.model_sources for a in source_askings(run, s, prompts)]
    return [asking for asking in askings if not asking.wanted().is_empty()]


def checkpoint_asking(run: Run, name: str, model: str, prompts: pl.DataFrame) -> Asking:
    """A checkpoint of the target and the held-out prompts, one answer each.

    The base is known by its revision, sft and dpo by the key in their folder's name.
    """
    recipe = run.recipe
    revision = recipe.target.revision if name == "base" else None
    engine, sampling = recipe.evaluation.engine, recipe.evaluation.sampling
    identity = Source(name=name, model=model, revision=revision, engine=engine)
    return Asking(
        served=Served(name, model, revision, engine, may_grow=True),
        source_key=source_key(identity, sampling),
        sampling=sampling,
        prompts=prompts.filter(pl.col("split") == "test"),
        samples={d.name: 1 for d in recipe.datasets if d.split == "test"},
    )


@dataclass(frozen=True)
class Waves:
    """The models of each wave as they are to be served, and whether the reward model stays up."""

    waves: list[list[Served]]
    reward_stays: bool


def waves_of(
    recipe: Recipe,
    served: Sequence[Served],
    holdings: Holdings,
    *,
    at_once: int | None = None,
    answers: Mapping[str, int] | None = None,
    reward_is_up: bool = False,
) -> Waves:
    """The models in waves that fit what the cluster holds, with sizes and replicas decided.

    `answers` says how many answers each is still to give; without it none gets more replicas.
    A reward model that is up already lies on GPUs that nobody chose for the waves.

    Raises:
        DoesNotFitError: one of them exceeds the cluster even alone.
    """
    models = [to_plan(s, (answers or {}).get(s.name, 0)) for s in served]
    layout = lay_out(
        models,
        recipe.rewards,
        holdings,
        recipe.cluster,
        at_once=at_once,
        reward_is_up=reward_is_up,
    )
    by_name = {s.name: s for s in served}
    waves = [
        [
            _decided(by_name[name], layout.splits[name], replicas)
            for name, replicas in wave.replicas.items()
        ]
        for wave in layout.packed.waves
    ]
    return Waves(waves, layout.packed.has_beside)


def to_plan(served: Served, answers: int) -> Model:
    """A model as the plan sees it."""
    return Model(
        served.name, served.model, served.engine, served.replicas, served.may_grow, answers
    )


def _decided(served: Served, split: Split, replicas: int) -> Served:
    sizes = {"tensor_parallel_size": split.tensor, "pipeline_parallel_size": split.pipeline}
    return replace(served, engine=served.engine.model_copy(update=sizes), replicas=replicas)


def source_applications(
    recipe: Recipe, served: Iterable[Served], holdings: Holdings, *, deployment: str = "Source"
) -> dict[str, serve.Application]:
    """The Serve applications of some models, by application name."""
    models = list(served)
    on_cpu = holdings.gpus == 0
    threads = max(1, holdings.cores // max(1, len(models)))
    return {
        source_application_name(recipe.name, m.name): source_application(
            m, on_cpu=on_cpu, threads=threads, name=deployment
        )
        for m in models
    }


def gpus_on_a_node(recipe: Recipe, served: Iterable[Served]) -> dict[str, int]:
    """How many GPUs of one node a replica of each model takes, by application name."""
    return {
        source_application_name(recipe.name, m.name): m.engine.tensor_parallel_size or 1
        for m in served
    }


def reward_applications(
    recipe: Recipe, holdings: Holdings, *, deployment: str = "Reward"
) -> dict[str, serve.Application]:
    """The Serve applications of the recipe's reward models, one for each scorer that has one."""
    on_cpu = holdings.gpus == 0
    return {
        reward_application_name(recipe.name, name): reward_application(
            reward, on_cpu=on_cpu, threads=holdings.cores, name=deployment
        )
        for name, reward in recipe.rewards.items()
        if reward.served_model
    }
