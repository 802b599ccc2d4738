"""OpenAI's routes: the sources that are up, chat completions, completions."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from services.answers import Reply
from services.gateway.accounts import Use
from services.gateway.desk import Visit, source_down
from services.gateway.documents import TEXT_STREAM, ChatCompletion, Completion, ModelList
from services.gateway.events import DONE, chunk_of, data_event, delta_of
from services.gateway.hanging_up import unless_hung_up
from services.gateway.refusals import RefusedError, documented
from services.gateway.requests import ChatRequest, CompletionRequest, check_sampled, openai_body
from services.gateway.sources import Method, Part, SourceDownError

ASKING = documented(400, 401, 403, 404, 408, 413, 415, 422, 429, 503)
router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models", response_model=ModelList, responses=documented(400, 401, 403))
async def models(request: Request) -> dict[str, Any]:
    """The sources that are up and that the key may ask."""
    visit = Visit.of(request)
    up = visit.desk.sources.up()
    cards = [
        {"id": name, "object": "model", "created": 0, "owned_by": "crucible"}
        for name in visit.allowed()
        if name in up
    ]
    return {"object": "list", "data": cards}


@router.post(
    "/v1/chat/completions",
    response_class=Response,
    responses={**ASKING, 200: {"model": ChatCompletion, "content": TEXT_STREAM}},
)
async def chat(request: Request, body: ChatRequest) -> Response:
    """Ask one source to go on with a conversation."""
    return await _answer(request, "chat", body)


@router.post(
    "/v1/completions",
    response_class=Response,
    responses={**ASKING, 200: {"model": Completion, "content": TEXT_STREAM}},
)
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Ask one source to go on with a text."""
    return await _answer(request, "completions", body)


async def _answer(
    request: Request, method: Method, asked: ChatRequest | CompletionRequest
) -> Response:
    visit, source = Visit.of(request), asked.model
    visit.check_may_ask(source)
    check_sampled(asked, visit.desk.limits)
    use = visit.held.enter_context(visit.asking(source, asked.answers()))
    body = openai_body(asked)
    visit.account.question = body.get("messages", body.get("prompt"))
    parts = visit.desk.sources.ask(source, method, body, visit.desk.limits.max_tokens)
    try:
        first = await unless_hung_up(anext(parts), request.receive)
    except SourceDownError as error:
        use.end("failed")
        raise source_down(source, str(error)) from None
    if isinstance(first, Reply):
        await parts.aclose()
        return _whole(source, first, use, keep_text=visit.desk.endpoint.audit_text)
    with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    events = _events(source, first, parts, use, with_usage=with_usage)
    return StreamingResponse(events, media_type="text/event-stream")


def _whole(source: str, reply: Reply, use: Use, *, keep_text: bool) -> Response:
    if reply.status != 200:
        use.end("refused")
        if reply.status >= 500:
            raise source_down(source, reply.message)
        raise RefusedError(reply.status, reply.message, param=reply.param)
    use.prompt_tokens, use.completion_tokens = reply.prompt_tokens, reply.completion_tokens
    use.end("answered")
    if keep_text:
        choices = json.loads(reply.json)["choices"]
        use.text = "\n".join(
            (c.get("message") or {}).get("content") or c.get("text") or "" for c in choices
        )
    return Response(reply.json, media_type="application/json")


async def _events(
    source: str,
    first: list[str],
    rest: AsyncGenerator[Part, None],
    use: Use,
    *,
    with_usage: bool,
) -> AsyncIterator[str]:
    """The events of a stream; its usage is kept for us, and sent on where it was asked for."""
    async with aclosing(rest):
        try:
            yield "".join(_passed_on(first, use, with_usage=with_usage))
            async for batch in rest:
                if isinstance(batch, list):
                    yield "".join(_passed_on(batch, use, with_usage=with_usage))
        except SourceDownError as error:
            use.end("failed")
            yield data_event(source_down(source, str(error)).body()) + DONE
        else:
            if use.seconds is None:
                use.end("answered")


def _passed_on(batch: list[str], use: Use, *, with_usage: bool) -> list[str]:
    use.saw_text()
    passed = []
    for text in batch:
        chunk = chunk_of(text)
        if chunk is None:
            passed.append(text)
            continue
        if error := chunk.get("error"):
            use.end("failed")
            refused = RefusedError(503, str(error.get("message", "The source failed.")))
            passed.append(data_event(refused.body()))
            continue
        if usage := chunk.get("usage"):
            use.prompt_tokens = usage.get("prompt_tokens") or 0
            use.completion_tokens = usage.get("completion_tokens") or 0
        else:
            use.completion_tokens += len(chunk["choices"])  # if the client hangs up: about right
        use.text += "".join(delta_of(choice) for choice in chunk["choices"])
        if chunk["choices"] or with_usage:
            passed.append(text)
    return passed
