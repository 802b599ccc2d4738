"""What the endpoint needs of what it stands before, so that it can be tested without a cluster."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal, Protocol

from fusion.rewards.judgement import Judgement
from services.answers import Reply

Method = Literal["chat", "completions"]
Part = Reply | list[str]


class SourceDownError(Exception):
    """A source does not answer: it is down, it died, or it takes too long."""


class Sources(Protocol):
    """The sources of one run and its reward model."""

    names: tuple[str, ...]
    """All that the endpoint stands before, up or not."""

    has_reward: bool

    def up(self) -> list[str]:
        """Those of the names that answer now."""
        ...

    def ask(
        self, source: str, method: Method, body: dict[str, Any], longest: int
    ) -> AsyncGenerator[Part, None]:
        """One reply, or the server-sent events of a stream in batches.

        An answer for which the body gives no length has at most `longest` tokens. Closing the
        generator ends the answer and frees its place.

        Raises:
            SourceDownError: there is no answer, or no more of it.
        """
        ...

    async def score(self, conversations: Sequence[list[dict[str, str]]]) -> list[Judgement]:
        """The reward of each conversation.

        Raises:
            SourceDownError: the reward model does not answer.
        """
        ...

    async def watch(self) -> None:
        """Keep `up` true until cancelled."""
        ...
