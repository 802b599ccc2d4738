"""The FastAPI app of the endpoint, over any sources."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from fusion.run import Run
from services.gateway import about, completions, fanout
from services.gateway.desk import Desk
from services.gateway.guard import ABANDONED, Guard
from services.gateway.hanging_up import HungUpError
from services.gateway.refusals import RefusedError
from services.gateway.sources import Sources
from services.page import pairs, routes

SENTENCES = {
    "There was an error parsing the body": "The body is not JSON, or nested too deeply.",
    "Not Found": "There is nothing at this path; /openapi.json lists what there is.",
    "Method Not Allowed": "This path takes another method; the header Allow names it.",
}
bearer = HTTPBearer(auto_error=False, description="A key made by `crucible keys create`.")


def build_app(run: Run, sources: Sources) -> FastAPI:
    """The endpoint over some sources of a run.

    Raises:
        BadInputError: the keys file is no keys file.
    """
    desk = Desk(run, sources)
    app = FastAPI(
        title="Crucible endpoint",
        description="Asks the source models of a fusion: OpenAI's dialect, and a fan-out.",
        docs_url=None,  # its page loads from another host
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_watching,
    )
    app.state.desk = desk
    app.state.run = run
    app.include_router(about.health)
    app.include_router(routes.router)
    needed = [Depends(bearer)] if desk.doorkeeper.needs_key else []
    for part in (about.router, completions.router, fanout.router, pairs.router):
        app.include_router(part, dependencies=needed)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(HungUpError, _hung_up)
    app.add_middleware(Guard, desk=desk)
    if origins := desk.endpoint.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    return app


@asynccontextmanager
async def _watching(app: FastAPI) -> AsyncIterator[None]:
    """Follow the keys file and what is up, as long as the app lives."""
    desk: Desk = app.state.desk
    tasks = [asyncio.create_task(watch()) for watch in (desk.sources.watch, desk.doorkeeper.watch)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        desk.verifiers.close()


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return error.response()


async def _invalid(request: Request, error: Exception) -> Response:
    """One sentence on the first mistake in a body; it never quotes what was sent."""
    assert isinstance(error, RequestValidationError)
    mistake = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    if mistake["type"] == "json_invalid":
        return RefusedError(400, "The body is not JSON.").response()
    where = ".".join(str(part) for part in mistake["loc"][1:])
    if mistake["type"] == "extra_forbidden":
        message = f"The field {where[:100]} is not known here; leave it out."
    elif mistake["type"] == "missing":
        message = f"{where or 'The body'} is missing; add it."
    else:
        message = f"{where or 'The body'}: {mistake['msg']}."
    return RefusedError(422, message, param=where[:100] or None).response()


async def _hung_up(request: Request, error: Exception) -> Response:
    """A status for the books; nobody reads it."""
    return Response(status_code=ABANDONED)


async def _http(request: Request, error: Exception) -> Response:
    """Refusals of the framework and of the page in our shape."""
    assert isinstance(error, HTTPException)
    message = SENTENCES.get(error.detail, error.detail)
    response = RefusedError(error.status_code, message).response()
    response.headers.update(error.headers or {})
    return response
