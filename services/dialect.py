"""OpenAI's requests to an engine of `ray.serve.llm`, and its answers as plain values.

Importing this imports vLLM: replicas do, the endpoint does not.
"""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from pydantic import ValidationError
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

from fusion.errors import CrucibleError
from services.answers import Reply
from services.engine import SourceServer

REQUESTS = {"chat": ChatCompletionRequest, "completions": CompletionRequest}


async def replies(
    server: SourceServer, method: str, body: dict[str, Any], longest: int
) -> AsyncIterator[Reply | list[str]]:
    """One reply, or the server-sent events of a stream in batches, each a text.

    A system turn is merged into the user's where the template has none, as it is for the batch. A
    chat that gives no max_tokens gets as many as its context has room for, at most `longest`.
    What this source cannot take is a reply with status 400; what raises is a dead engine.
    """
    try:
        fitted = {**_fitted(server, body, longest), "request_id": uuid4().hex}
        parts = await getattr(server, method)(REQUESTS[method](**fitted))
        async for part in parts:
            yield _plain(part)
    except ValidationError as error:
        mistake = error.errors()[0]
        yield _refusal(f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}")
    except Exception as error:  # the border to vLLM: an engine that lives has refused a request
        await server.check_health()
        yield _refusal(f"The source cannot take this request ({type(error).__name__}).")


def _fitted(server: SourceServer, body: dict[str, Any], longest: int) -> dict[str, Any]:
    """A chat as the model's template takes it, with a length of its own where it gives none."""
    if "messages" not in body:
        return body
    try:
        messages = server.fit(body["messages"])
        room = longest if "max_tokens" in body else server.room(messages)
    except (CrucibleError, AttributeError, KeyError, TypeError):
        # not a conversation in plain text, or one that no template takes: the engine says what
        messages, room = body["messages"], longest
    return {"max_tokens": max(1, min(longest, room)), **body, "messages": messages}


def _plain(part: Any) -> Reply | list[str]:
    if isinstance(part, list):
        broken = next((item for item in part if not isinstance(item, str)), None)
        return part if broken is None else _plain(broken)
    if error := getattr(part, "error", None):
        return _refusal(error.message, error.code, error.param)
    usage = part.usage
    return Reply(
        200, part.model_dump_json(), usage.prompt_tokens or 0, usage.completion_tokens or 0
    )


def _refusal(message: str, status: int = 400, param: str | None = None) -> Reply:
    return Reply(status, message=message, param=param)
