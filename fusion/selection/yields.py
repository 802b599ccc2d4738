"""The yield report: what entered of every data set, domain and source, and where each row went."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
from pydantic import TypeAdapter, ValidationError

from fusion.errors import BadInputError
from fusion.recipe import Dataset, Recipe, Source
from fusion.selection.answers import EXCLUSIONS
from fusion.selection.pairs import PAIR_RULES
from fusion.selection.split import PROMPT_RULES

Row = dict[str, Any]


@dataclass(frozen=True)
class SourceYield:
    """What one source gave to one data set.

    usable answers = answers - sum(answers_dropped); prompts = pairs + sum(pairs_dropped).
    """

    dataset: str
    domain: str
    source: str
    prompts: int
    """Prompts with an answer of this source."""
    answers: int
    correct: int
    wrong: int
    reward_mean: float | None
    """Over all answers with a finite reward."""
    answers_dropped: dict[str, int]
    pairs_dropped: dict[str, int]
    sft: int
    """Prompts whose sft row is this source's answer."""
    pairs: int


@dataclass(frozen=True)
class PromptYield:
    """What became of one data set's prompts: prompts = sft + pairs - both + sum(dropped)."""

    dataset: str
    domain: str
    prompts: int
    sft: int
    pairs: int
    """Prompts that gave pairs: one each, or with `pair_source: all` one or more."""
    both: int
    dropped: dict[str, int]


@dataclass(frozen=True)
class Yields:
    """The counts of a selection, and the bounds on the margin that held in each domain."""

    prompts: tuple[PromptYield, ...]
    sources: tuple[SourceYield, ...]
    margins: dict[str, tuple[float | None, float | None]]

    def as_json(self) -> Row:
        """Plain mappings and lists."""
        plain: Row = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Yields":
        """What `as_json` gave.

        Raises:
            BadInputError: it is of another version of Crucible.
        """
        try:
            return TypeAdapter(cls).validate_python(plain)
        except ValidationError:
            raise BadInputError(
                "The run's yields are of another version of Crucible; run the stage select again, "
                "which takes seconds."
            ) from None


def count_yields(
    recipe: Recipe,
    answers: pl.DataFrame,
    best: pl.DataFrame,
    pairs: pl.DataFrame,
    uses: pl.DataFrame,
) -> Yields:
    """Count every answer, every (prompt, source) and every prompt once."""
    places = uses.select("prompt", "dataset", "in_sft")
    counts: dict[tuple[str, int], Row] = defaultdict(dict)
    for part in (
        _count_answers(answers.join(places, on="prompt")),
        _count_pairs(pairs.join(places, on="prompt")),
        _count_sft(best.join(places.filter("in_sft"), on="prompt")),
    ):
        for row in part.to_dicts():
            counts[row["dataset"], row["source"]] |= row
    sources = tuple(
        _source_yield(dataset, source.name, counts[dataset.name, index])
        for dataset in recipe.datasets
        for index, source in enumerate(recipe.sources)
        if _is_asked(recipe, dataset, source) or counts[dataset.name, index]
    )
    return Yields(_prompt_yields(uses), sources, _margins(pairs))


def _is_asked(recipe: Recipe, dataset: Dataset, source: Source) -> bool:
    return dataset.split == "train" and recipe.samples(source, dataset) > 0


def _count_answers(answers: pl.DataFrame) -> pl.DataFrame:
    return answers.group_by("dataset", "source").agg(
        pl.len().alias("answers"),
        pl.col("prompt").n_unique().alias("prompts"),
        (pl.col("verdict") == "correct").sum().alias("correct"),
        (pl.col("verdict") == "wrong").sum().alias("wrong"),
        pl.col("reward").drop_nulls().alias("rewards"),
        *_counts(EXCLUSIONS),
    )


def _count_pairs(pairs: pl.DataFrame) -> pl.DataFrame:
    kept = pl.col("dropped_by").is_null().sum().alias("pairs")
    return pairs.group_by("dataset", "source").agg(kept, *_counts(PAIR_RULES))


def _count_sft(best: pl.DataFrame) -> pl.DataFrame:
    return best.group_by("dataset", "source").agg(pl.len().alias("sft"))


def _prompt_yields(uses: pl.DataFrame) -> tuple[PromptYield, ...]:
    counted = uses.group_by("dataset", "domain", maintain_order=True).agg(
        pl.len().alias("prompts"),
        pl.col("in_sft").sum().alias("sft"),
        pl.col("in_preferences").sum().alias("pairs"),
        (pl.col("in_sft") & pl.col("in_preferences")).sum().alias("both"),
        *_counts(PROMPT_RULES),
    )
    names = ("dataset", "domain", "prompts", "sft", "pairs", "both")
    return tuple(
        PromptYield(**{name: row[name] for name in names}, dropped=_dropped(row, PROMPT_RULES))
        for row in counted.to_dicts()
    )


def _source_yield(dataset: Dataset, source: str, row: Row) -> SourceYield:
    rewards = row.get("rewards", [])
    names = ("prompts", "answers", "correct", "wrong", "sft", "pairs")
    return SourceYield(
        dataset=dataset.name,
        domain=dataset.domain,
        source=source,
        **{name: row.get(name, 0) for name in names},
        # fsum is exact, so the order in which answers were read leaves no trace.
        reward_mean=math.fsum(rewards) / len(rewards) if rewards else None,
        answers_dropped=_dropped(row, EXCLUSIONS),
        pairs_dropped=_dropped(row, PAIR_RULES),
    )


def _counts(rules: tuple[str, ...]) -> list[pl.Expr]:
    return [(pl.col("dropped_by") == rule).sum().alias(f"dropped_{rule}") for rule in rules]


def _dropped(row: Row, rules: tuple[str, ...]) -> dict[str, int]:
    return {rule: row[f"dropped_{rule}"] for rule in rules if row.get(f"dropped_{rule}")}


def _margins(pairs: pl.DataFrame) -> dict[str, tuple[float | None, float | None]]:
    bounds = pairs.select("domain", "low", "high").unique().sort("domain")
    return {domain: (low, high) for domain, low, high in bounds.iter_rows()}
