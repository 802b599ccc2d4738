"""The pairs of the run that the endpoint serves, for its page and for whoever asks."""

from functools import lru_cache
from typing import Annotated

import polars as pl
from fastapi import APIRouter, Query, Request

from fusion.pair_query import FoundPairs, PairQuery, find_pairs
from fusion.run import Run
from fusion.store import Entry, Table
from services.gateway.refusals import RefusedError, documented

router = APIRouter(tags=["run"])


@router.get("/v1/preferences", responses=documented(400, 401, 404, 422))
def preferences(query: Annotated[PairQuery, Query()], request: Request) -> FoundPairs:
    """The preference pairs of the run, filtered and searched."""
    run: Run = request.app.state.run
    table = run.preferences()
    parts = table.location.list()
    if not parts:
        raise RefusedError(
            404,
            f"The run {run.recipe.name} has no preference pairs yet; "
            "they are there when its stage select is done.",
        )
    return find_pairs(_rows(table, parts), query)


@lru_cache(maxsize=1)
def _rows(table: Table, parts: tuple[Entry, ...]) -> pl.DataFrame:
    """The whole table, kept until its parts are others."""
    frame = pl.from_arrow(table.read())
    assert isinstance(frame, pl.DataFrame)
    return frame
