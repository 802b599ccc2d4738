"""What each request used, for metrics, the audit log and the keys' limits."""

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fusion.keys import Key

ANYBODY = "none"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass
class Use:
    """One answer that was asked of a source."""

    source: str
    started_s: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None
    seconds: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    outcome: str = "abandoned"
    text: str = ""

    def saw_text(self) -> None:
        """Note when the first token came."""
        if self.first_token_s is None:
            self.first_token_s = time.monotonic() - self.started_s

    def end(self, outcome: str) -> None:
        """Note how the answer ended; one that is not ended was abandoned by the client."""
        self.outcome = outcome
        self.seconds = time.monotonic() - self.started_s


@dataclass
class Account:
    """One request: who made it, what it used, how it ended."""

    key: Key | None
    path: str
    client: str
    request_id: str = field(default_factory=lambda: f"req-{uuid4().hex}")
    status: int = 0
    uses: list[Use] = field(default_factory=list)
    question: Any = None

    @property
    def who(self) -> str:
        """The name of the key."""
        return self.key.name if self.key else ANYBODY

    def use(self, source: str) -> Use:
        """Begin an answer of a source."""
        self.uses.append(Use(source))
        return self.uses[-1]

    @property
    def tokens(self) -> int:
        """Tokens of all its answers, prompts included."""
        return sum(use.prompt_tokens + use.completion_tokens for use in self.uses)


class Metrics:
    """What Prometheus reads of one gateway; no label holds more than paths, sources and names."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        both = ("source", "key")
        self._registry = registry
        self._requests = Counter(
            "crucible_requests", "Requests.", ("path", "key", "status"), registry=registry
        )
        self._answers = Counter(
            "crucible_answers", "Answers asked.", (*both, "outcome"), registry=registry
        )
        self._tokens = Counter("crucible_tokens", "Tokens.", (*both, "kind"), registry=registry)
        self._first = Histogram(
            "crucible_first_token_seconds",
            "Time to the first token of a stream.",
            both,
            buckets=SECONDS,
            registry=registry,
        )
        self._whole = Histogram(
            "crucible_answer_seconds",
            "Time to the whole answer.",
            both,
            buckets=SECONDS,
            registry=registry,
        )
        self._queue = Gauge(
            "crucible_queue", "Answers under way or waiting.", both, registry=registry
        )

    def begin(self, use: Use, who: str) -> None:
        """Count an answer as under way."""
        self._queue.labels(use.source, who).inc()

    def end(self, use: Use, who: str) -> None:
        """Count an answer that is over."""
        self._queue.labels(use.source, who).dec()
        self._answers.labels(use.source, who, use.outcome).inc()
        self._tokens.labels(use.source, who, "prompt").inc(use.prompt_tokens)
        self._tokens.labels(use.source, who, "completion").inc(use.completion_tokens)
        if use.first_token_s is not None:
            self._first.labels(use.source, who).observe(use.first_token_s)
        if use.seconds is not None:
            self._whole.labels(use.source, who).observe(use.seconds)

    def request(self, account: Account) -> None:
        """Count a request that is over."""
        self._requests.labels(account.path, account.who, str(account.status)).inc()

    def text(self) -> bytes:
        """All in Prometheus' text format."""
        return generate_latest(self._registry)


class Audit:
    """One JSON line an answer, and one a request without any: who, when, what, how it ended."""

    def __init__(self, file: str | None, *, with_text: bool) -> None:
        self._with_text = with_text
        self._stream = None
        if file:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            self._stream = Path(file).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def write(self, account: Account) -> None:
        """Append what a request did."""
        if self._stream is None:
            return
        uses: list[Use | None] = [*account.uses]
        for use in uses or [None]:
            line = json.dumps(self._row(account, use), ensure_ascii=False)
            self._stream.write(line + "\n")

    def _row(self, account: Account, use: Use | None) -> dict[str, Any]:
        row: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request": account.request_id,
            "key": account.who,
            "client": account.client,
            "path": account.path,
            "status": account.status,
        }
        if use is not None:
            seconds = use.seconds if use.seconds is not None else time.monotonic() - use.started_s
            row |= {
                "source": use.source,
                "prompt_tokens": use.prompt_tokens,
                "completion_tokens": use.completion_tokens,
                "outcome": use.outcome,
                "seconds": round(seconds, 3),
            }
        if self._with_text:
            row |= {"question": account.question, "answer": use.text if use else None}
        return row
