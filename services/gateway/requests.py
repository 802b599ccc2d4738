"""What may be asked: OpenAI's requests and the fan-out, with bounds; unknown fields are refused."""

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from fusion.recipe import RequestLimits
from services.gateway.refusals import RefusedError

INT64 = 2**63
# A source reads a schema between two steps of its engine: a large one would hold up its answers.
SCHEMA_CHARACTERS = 1 << 16
Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=1 << 20)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]
ModelName = Annotated[str, Field(min_length=1, max_length=64)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Stop | Annotated[list[Stop], Field(max_length=16)]


def _only_token_ids(schema: dict[str, Any]) -> None:
    """Say in the document what pydantic leaves out: keys of another form are refused."""
    schema["anyOf"][0]["additionalProperties"] = False


class Strict(BaseModel):
    """A part of a request; an unknown field is an error, and so is a value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class Message(Strict):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    name: str | None = Field(None, max_length=64)
    tool_calls: list[dict[str, JsonValue]] | None = Field(None, max_length=64)
    tool_call_id: str | None = Field(None, max_length=256)


class Turn(Strict):
    """One turn of a conversation in plain text."""

    role: Literal["system", "user", "assistant"]
    content: Text


class StreamOptions(Strict):
    """What a stream says besides its text."""

    include_usage: bool = Field(False, description="A last event holds the tokens used.")


class Function(Strict):
    """A function that a model may call."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: Text | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool that a model may call; the source's template shows it to the model."""

    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    """The name of a function."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")


class ToolChoice(Strict):
    """The function that is to be called."""

    type: Literal["function"]
    function: FunctionName


def _is_small(schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if len(json.dumps(schema)) > SCHEMA_CHARACTERS:
        raise ValueError(f"a schema may have {SCHEMA_CHARACTERS:,} characters")
    return schema


class NamedSchema(Strict):
    """The JSON Schema that an answer keeps to."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: Text | None = None
    schema_: Annotated[dict[str, JsonValue], AfterValidator(_is_small)] = Field(alias="schema")
    strict: bool | None = Field(None, description="Accepted; an answer always keeps to it.")


class TextFormat(Strict):
    """An answer of any form."""

    type: Literal["text"]


class JsonFormat(Strict):
    """An answer that is a JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Strict):
    """An answer that is JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class Sampled(Strict):
    """How answers are drawn; vLLM's defaults hold for what is not given."""

    model: ModelName = Field(description="A source, as GET /v1/models names it.")
    max_tokens: int | None = Field(None, ge=1, description="Longest answer, in tokens.")
    temperature: Number | None = Field(None, ge=0, le=2, description="0: the likeliest token.")
    top_p: Number | None = Field(None, gt=0, le=1, description="The mass of tokens kept.")
    top_k: int | None = Field(None, ge=0, lt=1 << 31, description="Tokens kept; 0 keeps all.")
    min_p: Number | None = Field(None, ge=0, le=1, description="Least relative probability.")
    repetition_penalty: Number | None = Field(None, gt=0, le=2, description="Above 1: no repeats.")
    presence_penalty: Number | None = Field(None, ge=-2, le=2, description="Once a token is used.")
    frequency_penalty: Number | None = Field(None, ge=-2, le=2, description="Per use of a token.")
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Number] | None = Field(
        None,
        max_length=300,
        description="Added to a token's logit, by its id; -100 to 100.",
        json_schema_extra=_only_token_ids,
    )
    n: int | None = Field(None, ge=1, description="Answers to one prompt.")
    seed: int | None = Field(
        None, ge=-INT64, lt=INT64, description="The same seed, the same answer."
    )
    stop: Stops | None = Field(None, description="Texts that end an answer.")
    stream: bool | None = Field(None, description="Answer with server-sent events.")
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = Field(None, description="Token ids of prompt and answer too.")
    user: str | None = Field(None, max_length=256, description="Accepted; not used.")

    def answers(self) -> int:
        """The number of answers asked for."""
        return self.n or 1


class ChatRequest(Sampled):
    """A conversation for one source to go on with."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, description="The same as max_tokens.")
    logprobs: bool | None = Field(None, description="Log-probabilities of the answer's tokens.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="And of so many others.")
    response_format: TextFormat | JsonFormat | SchemaFormat | None = Field(
        None, discriminator="type", description="The form of the answer."
    )
    tools: list[Tool] | None = Field(None, max_length=64)
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None


class CompletionRequest(Sampled):
    """A text for one source to go on with."""

    prompt: Text | TokenIds | Texts | Annotated[list[TokenIds], Field(min_length=1)] = Field(
        description="A text or token ids, or several."
    )
    echo: bool | None = Field(None, description="The answer starts with the prompt.")
    logprobs: int | None = Field(None, ge=0, le=20, description="Log-probabilities a token.")

    def answers(self) -> int:
        """The number of answers asked for, over all prompts."""
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return (self.n or 1) * (len(self.prompt) if several else 1)


class FanoutRequest(Strict):
    """One conversation for several sources; what is not given is as the recipe samples them."""

    messages: list[Turn] = Field(min_length=1, description="The conversation; a user turn last.")
    models: list[ModelName] | None = Field(
        None, min_length=1, max_length=64, description="Sources to ask; all that are up by default."
    )
    n: int = Field(1, ge=1, description="Answers of each source.")
    temperature: Number | None = Field(None, ge=0, le=2)
    top_p: Number | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    stop: Stops | None = None
    seed: int | None = Field(
        None, ge=0, lt=INT64 >> 1, description="Answer i is drawn with seed + i."
    )
    score: bool = Field(False, description="Rate each answer by the recipe's reward model.")
    gold: str | None = Field(None, max_length=1 << 16, description="The right answer, to compare.")
    verifier: Literal["math", "exact", "choice"] | None = Field(
        None, description="How to compare with gold."
    )

    @model_validator(mode="after")
    def _belongs_together(self) -> "FanoutRequest":
        if (self.gold is None) != (self.verifier is None):
            raise ValueError("gold and verifier need each other")
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        if self.models and len(set(self.models)) < len(self.models):
            raise ValueError("models names a source twice")
        return self

    def changes(self) -> dict[str, Any]:
        """The sampling parameters that are given."""
        names = {"temperature", "top_p", "max_tokens", "stop"}
        return self.model_dump(include=names, exclude_none=True)


def check_sampled(request: ChatRequest | CompletionRequest, limits: RequestLimits) -> None:
    """See that a request stays within the endpoint's limits.

    Raises:
        RefusedError: it does not; which field, and the limit.
    """
    _at_most("max_tokens", request.max_tokens, limits.max_tokens)
    _at_most("n", request.n, limits.n)
    if isinstance(request, ChatRequest):
        _at_most("max_completion_tokens", request.max_completion_tokens, limits.max_tokens)
        _at_most("messages", len(request.messages), limits.messages)
    if request.answers() > limits.n:
        raise RefusedError(
            422, f"n of every prompt are more than {limits.n} answers.", param="prompt"
        )


def check_fanout(request: FanoutRequest, limits: RequestLimits, *, has_reward: bool) -> None:
    """See that a fan-out stays within the endpoint's limits, and that it can be scored.

    Raises:
        RefusedError: it does not; which field, and why.
    """
    _at_most("max_tokens", request.max_tokens, limits.max_tokens)
    _at_most("n", request.n, limits.n)
    _at_most("messages", len(request.messages), limits.messages)
    if request.score and not has_reward:
        raise RefusedError(422, "The recipe has no reward model; ask without score.", param="score")


def openai_body(request: ChatRequest | CompletionRequest) -> dict[str, Any]:
    """What the source is sent: what was given, and a stream always with its usage."""
    body = request.model_dump(by_alias=True, exclude_none=True, exclude={"user", "stream_options"})
    if longest := body.pop("max_completion_tokens", None):
        body["max_tokens"] = longest
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    return body


def _at_most(name: str, value: int | None, limit: int) -> None:
    if value is not None and value > limit:
        raise RefusedError(
            422, f"{name} is {value}; this endpoint takes at most {limit}.", param=name
        )
