"""What entered of each data set and source before selection, as the manifests of a run have it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fusion.recipe import Recipe
from fusion.store import Manifest


@dataclass(frozen=True)
class RowsRead:
    """The rows of one data set: rows = prompts + sum(left_out)."""

    dataset: str
    domain: str
    rows: int
    prompts: int
    left_out: dict[str, int]
    """By rule, and by the reason for which a row is in quarantine."""


@dataclass(frozen=True)
class AnswersAsked:
    """What one source was asked of one data set: asked = answers + sum(failed)."""

    dataset: str
    """Empty for imported answers, of which those left out have none."""
    domain: str
    source: str
    asked: int
    answers: int
    failed: dict[str, int]
    """By the reason for which an answer is in quarantine; of imported ones by rule as well."""


@dataclass(frozen=True)
class Entries:
    """Of every data set its rows, of every source its answers; empty where a stage has not run."""

    rows: tuple[RowsRead, ...] = ()
    answers: tuple[AnswersAsked, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe, manifests: Mapping[str, Manifest | None]) -> "Entries":
        """What the manifests of ingest and sample say."""
        ingest, sample = manifests.get("ingest"), manifests.get("sample")
        return cls(
            tuple(_rows_read(recipe, ingest.yields)) if ingest else (),
            _answers_asked(sample.yields) if sample else (),
        )

    def failed(self, dataset: str, source: str) -> dict[str, int]:
        """Why answers of a source to a data set's prompts are missing."""
        found = (
            row.failed for row in self.answers if (row.dataset, row.source) == (dataset, source)
        )
        return next(found, {})


def _rows_read(recipe: Recipe, yields: Mapping[str, Any]) -> list[RowsRead]:
    counted = yields.get("datasets", {})
    return [
        RowsRead(
            dataset.name,
            dataset.domain,
            counts["entered"],
            counts["results"],
            {**counts["dropped"], **counts["quarantined"]},
        )
        for dataset in recipe.datasets
        if (counts := counted.get(dataset.name))
    ]


def _answers_asked(yields: Mapping[str, Any]) -> tuple[AnswersAsked, ...]:
    return tuple(AnswersAsked(**row) for row in yields.get("asked", ()))
