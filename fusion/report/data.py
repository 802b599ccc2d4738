"""What one report is made of: frames, manifests and logs, already read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from fusion.recipe import Recipe
from fusion.selection import Yields
from fusion.store import Manifest

TARGET_MODELS = ("base", "sft", "dpo")


@dataclass(frozen=True)
class ModelInput:
    """A model that took part: the target, a source or the reward model."""

    role: str
    name: str
    model: str
    revision: str | None
    fingerprint: str


@dataclass(frozen=True)
class DatasetInput:
    """A data set of prompts, and how many of its prompts were taken."""

    name: str
    path: str
    revision: str | None
    domain: str
    split: str
    prompts: int


@dataclass(frozen=True)
class Lineage:
    """Where a fused model comes from."""

    recipe_hash: str
    recipe_yaml: str
    models: tuple[ModelInput, ...]
    datasets: tuple[DatasetInput, ...]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class ReportData:
    """All that the page and result.json show of one run.

    results and preferences have the columns of `fusion.records`, rewards those of `train_rewards`.
    manifests and logs are keyed by stage; a log is one mapping a logged training step.
    """

    recipe: Recipe
    results: pl.DataFrame
    preferences: pl.DataFrame
    rewards: pl.DataFrame
    yields: Yields | None
    lineage: Lineage
    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    logs: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, in the recipe's order."""
        return tuple(source.name for source in self.recipe.sources)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that may have results: base, sft, dpo, then the sources."""
        return (*TARGET_MODELS, *self.sources)


def train_rewards(
    recipe: Recipe, prompts: pl.DataFrame, responses: pl.DataFrame, scores: pl.DataFrame
) -> pl.DataFrame:
    """Source, domain and reward of the recipe's train answers that a reward model judged.

    Answers beyond the recipe's number of samples, asked by another recipe, are passed over.
    """
    train = prompts.filter(pl.col("split") == "train").select("prompt_id", "dataset", "domain")
    judged = scores.filter(pl.col("reward").is_finite()).select("response_id", "reward")
    answers = responses.select("response_id", "prompt_id", "source", "sample_index")
    joined = answers.join(train, on="prompt_id").join(
        _num_samples(recipe), on=["source", "dataset"]
    )
    wanted = joined.filter(pl.col("sample_index") < pl.col("num_samples"))
    return wanted.join(judged, on="response_id").select("source", "domain", "reward")


def _num_samples(recipe: Recipe) -> pl.DataFrame:
    """How many answers of each source to a prompt of each data set count."""
    rows = [
        (s.name, d.name, recipe.samples(s, d) if s.kind == "model" else 2**31 - 1)
        for s in recipe.sources
        for d in recipe.datasets
    ]
    columns = {"source": pl.String, "dataset": pl.String, "num_samples": pl.Int64}
    return pl.DataFrame(rows, columns, orient="row")
