"""The endpoint: one FastAPI ingress that speaks OpenAI's dialect for every source that is up."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from ray import serve
from ray.serve.handle import DeploymentHandle

from services.applications import handle, running, source_application_name

GATEWAY_APPLICATION = "gateway"
web = FastAPI(title="Crucible endpoint")


# Serve freezes the class and what it refers to where it is decorated: helpers come first.
async def _body(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        raise HTTPException(400, "The body is not JSON.") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "The body is not a JSON object.")
    return body


async def _events(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[str]:
    for event in first if isinstance(first, list) else [first]:
        yield event
    async for part in rest:
        for event in part if isinstance(part, list) else [part]:
            yield event


@web.exception_handler(HTTPException)
def _as_openai_says(request: Request, error: HTTPException) -> JSONResponse:
    told = {"message": error.detail, "type": "invalid_request_error", "code": error.status_code}
    return JSONResponse({"error": told}, status_code=error.status_code)


@serve.ingress(web)
class Gateway:
    """Routes a request to the source it names; applications are found by name."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._handles: dict[str, DeploymentHandle] = {}

    @web.get("/healthz")
    def healthz(self) -> dict[str, str]:
        """Whether the endpoint itself is up."""
        return {"status": "ok"}

    @web.get("/v1/models")
    def models(self) -> dict[str, Any]:
        """The sources that are up."""
        prefix = source_application_name(self._run, "")
        names = [name.removeprefix(prefix) for name in running() if name.startswith(prefix)]
        cards = [{"id": name, "object": "model", "owned_by": "crucible"} for name in names]
        return {"object": "list", "data": cards}

    @web.post("/v1/chat/completions")
    async def chat(self, request: Request) -> Response:
        """OpenAI's chat completion."""
        return await self._forward(await _body(request), "chat")

    @web.post("/v1/completions")
    async def completions(self, request: Request) -> Response:
        """OpenAI's completion."""
        return await self._forward(await _body(request), "completions")

    async def _forward(self, body: dict[str, Any], method: str) -> Response:
        source = self._source(body.get("model"))
        parts = aiter(getattr(source.options(stream=True), method).remote(body))
        first = await anext(parts)
        if isinstance(first, str | list):
            return StreamingResponse(_events(first, parts), media_type="text/event-stream")
        status = first.error.code if hasattr(first, "error") else 200
        return JSONResponse(first.model_dump(mode="json"), status_code=int(status))

    def _source(self, name: Any) -> DeploymentHandle:
        application = source_application_name(self._run, str(name))
        if application not in running():
            raise HTTPException(404, f"The source {name!r} is not up; see /v1/models.")
        if application not in self._handles:
            self._handles[application] = handle(application)
        return self._handles[application]


def gateway_application(run: str) -> serve.Application:
    """The Serve application of the endpoint over one run's sources."""
    options = {"num_cpus": 0.5}
    return serve.deployment(Gateway, name="Gateway", ray_actor_options=options).bind(run)
