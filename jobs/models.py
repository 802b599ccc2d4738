"""Which models answer which prompts: the sources by data set, the target's checkpoints held-out."""

from collections.abc import Iterable, Sequence

import polars as pl
from ray import serve

from cluster.connection import Holdings
from cluster.waves import engine_need, pack_waves, reward_need
from fusion.recipe import Dataset, Recipe, Sampling, Source
from fusion.run import Run, source_key
from jobs.sample import Asking
from services.applications import reward_application_name, source_application_name
from services.reward import reward_application
from services.source import CPU_KV_CACHE_BYTES, Served, source_application

SPLITS = ("train", "test")


def served_source(source: Source) -> Served:
    """What Serve needs to know of a source of kind model."""
    model = str(source.model)
    return Served(source.name, model, source.revision, source.engine, source.replicas)


def sampling_of(run: Run, source: Source, split: str) -> Sampling:
    """A source answers training prompts as its section says, held-out ones as evaluation says."""
    return source.sampling if split == "train" else run.recipe.evaluation.sampling


def source_keys(run: Run, split: str) -> dict[str, str]:
    """The key of every source's answers to the prompts of a split."""
    return {s.name: source_key(s, sampling_of(run, s, split)) for s in run.recipe.sources}


def source_askings(run: Run, source: Source, prompts: pl.DataFrame) -> list[Asking]:
    """What a source is to be asked: its training prompts and its held-out ones."""
    return [
        Asking(
            served=served_source(source),
            source_key=source_key(source, sampling_of(run, source, split)),
            sampling=sampling_of(run, source, split),
            prompts=prompts.filter(pl.col("split") == split),
            samples=_samples(run.recipe, source, split),
            is_test=split == "test",
        )
        for split in SPLITS
    ]


def run_askings(run: Run, prompts: pl.DataFrame) -> list[Asking]:
    """What all sources are to be asked; a source without prompts is left out."""
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
        served=Served(name, model, revision, engine),
        source_key=source_key(identity, sampling),
        sampling=sampling,
        prompts=prompts.filter(pl.col("split") == "test"),
        samples={d.name: 1 for d in recipe.datasets if d.split == "test"},
        is_test=True,
    )


def waves_of(
    recipe: Recipe, served: Sequence[Served], holdings: Holdings, *, at_once: int | None = None
) -> list[list[Served]]:
    """The models in waves that fit what the cluster holds, with the reward model beside them.

    Raises:
        DoesNotFitError: one of them exceeds the cluster even alone.
    """
    on_cpu = holdings.gpus == 0
    needs = [
        engine_need(
            s.name, s.model, s.engine, s.replicas, on_cpu=on_cpu, kv_cache_bytes=CPU_KV_CACHE_BYTES
        )
        for s in served
    ]
    beside = [
        reward_need(str(reward.model), reward.replicas, on_cpu=on_cpu)
        for reward in recipe.rewards.values()
        if reward.served_model
    ]
    by_name = {s.name: s for s in served}
    waves = pack_waves(needs, beside, holdings, at_once=at_once)
    return [[by_name[name] for name in wave] for wave in waves]


def source_applications(
    recipe: Recipe, served: Iterable[Served], holdings: Holdings
) -> dict[str, serve.Application]:
    """The Serve applications of some models, by application name."""
    models = list(served)
    on_cpu = holdings.gpus == 0
    threads = max(1, holdings.cores // max(1, len(models)))
    return {
        source_application_name(recipe.name, m.name): source_application(
            m, on_cpu=on_cpu, threads=threads
        )
        for m in models
    }


def reward_applications(recipe: Recipe, holdings: Holdings) -> dict[str, serve.Application]:
    """The Serve applications of the recipe's reward models, one for each scorer that has one."""
    on_cpu = holdings.gpus == 0
    return {
        reward_application_name(recipe.name, name): reward_application(
            reward, on_cpu=on_cpu, threads=holdings.cores
        )
        for name, reward in recipe.rewards.items()
        if reward.served_model
    }


def _samples(recipe: Recipe, source: Source, split: str) -> dict[str, int]:
    datasets: list[Dataset] = [d for d in recipe.datasets if d.split == split]
    return {d.name: recipe.samples(source, d) for d in datasets}
