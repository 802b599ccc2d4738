"""What comes of scoring one conversation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Judgement:
    """The reward of one conversation, or the reason why there is none.

    Attributes:
        reward: higher is better, in the scorer's own scale.
        heads: the objectives of a multi-objective model.
        reason: what a judge said.
        failure: why there is no reward, as a typed reason.
        detail: the failure in words.
    """

    reward: float | None = None
    heads: list[float] | None = None
    reason: str | None = None
    failure: str | None = None
    detail: str = ""
