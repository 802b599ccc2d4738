"""What the endpoint serves to a browser: the page, its files, and the pairs of the run.

The application that includes `router` sets `app.state.run` to the `Run` whose pairs are shown.
"""

from functools import lru_cache
from typing import Annotated

import polars as pl
from fastapi import APIRouter, HTTPException, Query, Request, Response

from fusion.pair_query import FoundPairs, PairQuery, find_pairs
from fusion.run import Run
from fusion.store import Entry, Table
from services.page.files import SECURITY_HEADERS, page_files

router = APIRouter()


@router.get("/", include_in_schema=False)
def page(request: Request) -> Response:
    """The page itself."""
    return _file("index.html", request)


@router.get("/page/{name}", include_in_schema=False)
def page_file(name: str, request: Request) -> Response:
    """A script, style sheet or picture of the page."""
    return _file(name, request)


@router.get("/v1/preferences", responses={404: {"description": "The run has no pairs yet."}})
def preferences(
    query: Annotated[PairQuery, Query()], request: Request, response: Response
) -> FoundPairs:
    """The preference pairs of the run, filtered and searched."""
    run: Run = request.app.state.run
    table = run.preferences()
    parts = table.location.list()
    if not parts:
        raise HTTPException(
            404,
            f"The run {run.recipe.name!r} has no preference pairs yet; "
            "they are there when its stage select is done.",
        )
    response.headers.update({**SECURITY_HEADERS, "Cache-Control": "no-store"})
    return find_pairs(_rows(table, parts), query)


def _file(name: str, request: Request) -> Response:
    file = page_files().get(name)
    if file is None:
        raise HTTPException(404, f"The page has no file {name!r}.", SECURITY_HEADERS)
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=file.headers)
    return Response(file.content, headers=file.headers, media_type=file.media_type)


@lru_cache(maxsize=1)
def _rows(table: Table, parts: tuple[Entry, ...]) -> pl.DataFrame:
    """The whole table, kept until its parts are others."""
    frame = pl.from_arrow(table.read())
    assert isinstance(frame, pl.DataFrame)
    return frame
