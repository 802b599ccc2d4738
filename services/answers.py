"""What goes to a source and what comes back: plain values that any process can hold."""

from dataclasses import dataclass

from fusion.errors import CrucibleError
from fusion.recipe import Sampling


class SourceDiedError(CrucibleError):
    """The engine of a source is dead; its replica goes down and Serve starts another."""


@dataclass(frozen=True)
class Wanted:
    """One answer wanted of a prompt; `draw` is how often another seed than its first was taken."""

    sample_index: int
    draw: int = 0


@dataclass(frozen=True)
class SampleRequest:
    """A prompt and the answers wanted of it."""

    prompt_id: str
    messages: list[dict[str, str]]
    wanted: list[Wanted]


@dataclass(frozen=True)
class Manner:
    """How a source is to answer."""

    source_key: str
    sampling: Sampling
    timeout_s: float
    keeps_all: bool
    """Whether empty and looping answers count as answers, as they do of a model under test."""


@dataclass(frozen=True)
class Answer:
    """One answer, or the reason why there is none."""

    response_id: str
    prompt_id: str
    sample_index: int
    seed: int
    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cumulative_logprob: float | None = None
    failure: str | None = None
    detail: str = ""
    attempts: int = 1


@dataclass(frozen=True)
class Finished:
    """Answers that came to their end since the last ones, and the engine's appetite."""

    answers: list[Answer]
    window: int
    """How many answers the engine wants in flight."""


@dataclass(frozen=True)
class Reply:
    """The whole of an answer in OpenAI's form and what it took, or why there is none."""

    status: int
    json: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    message: str = ""
    param: str | None = None
