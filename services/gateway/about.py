"""What the endpoint says of itself: health, metrics, what it has."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from services.gateway.desk import Desk, Visit
from services.gateway.documents import About, Health
from services.gateway.refusals import RefusedError, documented

health = APIRouter(tags=["endpoint"])
router = APIRouter(tags=["endpoint"])


@health.get("/healthz", response_model=Health, responses=documented(400))
async def healthz() -> dict[str, str]:
    """Whether the endpoint itself is up; needs no key."""
    return {"status": "ok"}


@health.get("/readyz", response_model=Health, responses=documented(400, 503))
async def readyz(request: Request) -> dict[str, str]:
    """Whether a source is up; needs no key."""
    desk: Desk = request.app.state.desk
    if not desk.sources.up():
        raise RefusedError(503, "No source is up yet.", code="starting", retry_after_s=5)
    return {"status": "ok"}


@router.get("/v1/endpoint", response_model=About, responses=documented(400, 401, 403))
async def endpoint(request: Request) -> dict[str, Any]:
    """The run, its sources, and what may be asked of them."""
    visit = Visit.of(request)
    desk = visit.desk
    shown = ("max_tokens", "n", "messages", "body_bytes")
    return {
        "run": desk.run.recipe.name,
        "sources": visit.allowed(),
        "reward": desk.sources.has_reward,
        "keys": desk.doorkeeper.needs_key,
        "limits": desk.limits.model_dump(include=set(shown)),
    }


@router.get("/metrics", response_class=PlainTextResponse, responses=documented(400, 401, 403))
async def metrics(request: Request) -> PlainTextResponse:
    """Requests, tokens, times and queue by source and key, for Prometheus."""
    return PlainTextResponse(Visit.of(request).desk.metrics.text())
