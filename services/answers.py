"""What goes to a source and what comes back: plain values that any process can hold."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SampleRequest:
    """A prompt and the sample indexes wanted of it."""

    prompt_id: str
    messages: list[dict[str, str]]
    sample_indexes: list[int]


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
