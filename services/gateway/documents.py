"""What the endpoint answers, for its OpenAPI document; sources may add fields of vLLM's own."""

from typing import Any, Literal

from pydantic import BaseModel, Field

_EVENT = {
    "type": "object",
    "description": "One server-sent event.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
TEXT_STREAM: dict[str, Any] = {"text/event-stream": {"schema": _EVENT}}


class ModelCard(BaseModel):
    """A source that is up."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The sources that are up."""

    object: Literal["list"]
    data: list[ModelCard]


class Usage(BaseModel):
    """Tokens that a request took."""

    prompt_tokens: int
    completion_tokens: int | None = None
    total_tokens: int


class ChatMessage(BaseModel):
    """What the source says."""

    role: str
    content: str | None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatMessage
    finish_reason: str | None = None


class ChatCompletion(BaseModel):
    """OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(BaseModel):
    """One answer."""

    index: int
    text: str
    finish_reason: str | None = None


class Completion(BaseModel):
    """OpenAI's completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Health(BaseModel):
    """Whether the endpoint is up."""

    status: Literal["ok", "starting"]


class ShownLimits(BaseModel):
    """Bounds of one request."""

    max_tokens: int
    n: int
    messages: int
    body_bytes: int


class About(BaseModel):
    """What this endpoint has, for its page."""

    run: str
    sources: list[str] = Field(description="Those that the key may ask, up or not.")
    reward: bool = Field(description="Whether answers can be scored.")
    keys: bool = Field(description="Whether a key is needed.")
    limits: ShownLimits
