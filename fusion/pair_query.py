"""Which pairs of a run someone wants to look at: a question, and the rows that answer it."""

from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt

INDEX = "index"


class PairQuery(BaseModel):
    """What a pair must be like to be shown, and which stretch of those is wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str | None = Field(None, description="Only pairs of this data set.")
    domain: str | None = Field(None, description="Only pairs of this domain.")
    source: str | None = Field(None, description="Only pairs of this source.")
    min_margin: FiniteFloat | None = Field(None, description="Only margins from here up.")
    max_margin: FiniteFloat | None = Field(None, description="Only margins up to here.")
    search: str | None = Field(
        None, max_length=400, description="Text in prompt, chosen or rejected; case is ignored."
    )
    offset: NonNegativeInt = Field(0, description="Pairs to pass over.")
    limit: int = Field(50, ge=1, le=200, description="Most pairs to return.")


class Facets(BaseModel):
    """The values that a query may name, over all pairs of the run."""

    datasets: list[str]
    domains: list[str]
    sources: list[str]


class FoundPairs(BaseModel):
    """A stretch of the pairs that a query selects, and how many it selects in all."""

    total: int
    rows: list[dict[str, Any]] = Field(
        description="The columns of the preferences table, and `index`, the place among all pairs."
    )
    facets: Facets


def find_pairs(preferences: pl.DataFrame, query: PairQuery) -> FoundPairs:
    """The pairs that `query` selects, in the table's order; a pair without margin has no band."""
    wanted = preferences.lazy().with_row_index(INDEX).filter(_conditions(query))
    indexes = wanted.select(INDEX).collect()[INDEX]
    shown = indexes[query.offset : query.offset + query.limit]
    return FoundPairs(
        total=len(indexes),
        rows=preferences[shown].with_columns(shown).to_dicts(),
        facets=_facets(preferences),
    )


def _conditions(query: PairQuery) -> list[pl.Expr]:
    given = query.model_dump(include={"dataset", "domain", "source"}, exclude_none=True)
    conditions = [pl.col(name) == value for name, value in given.items()]
    if query.min_margin is not None:
        conditions.append(pl.col("margin") >= query.min_margin)
    if query.max_margin is not None:
        conditions.append(pl.col("margin") <= query.max_margin)
    if query.search:
        sides = [_mentions(name, query.search) for name in ("prompt", "chosen", "rejected")]
        conditions.append(pl.any_horizontal(sides))
    return conditions or [pl.lit(True)]


def _mentions(column: str, text: str) -> pl.Expr:
    contents = pl.element().struct.field("content").str.to_lowercase()
    found = contents.str.contains(text.lower(), literal=True).any()
    return pl.col(column).list.eval(found).list.first()


def _facets(preferences: pl.DataFrame) -> Facets:
    def values(column: str) -> list[str]:
        return preferences[column].unique().sort().to_list()

    return Facets(datasets=values("dataset"), domains=values("domain"), sources=values("source"))
