"""What a key and a source still take: requests and tokens a minute, and answers under way."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fusion.keys import Key
from services.gateway.refusals import RefusedError

BUSY_RETRY_S = 1.0


@dataclass
class Bucket:
    """An amount that refills evenly, a whole `per_minute` in a minute; it may be overdrawn."""

    per_minute: int
    left: float
    at_s: float

    def refill(self, now_s: float) -> float:
        """What is left now."""
        gained = (now_s - self.at_s) * self.per_minute / 60
        self.left = min(self.per_minute, self.left + gained)
        self.at_s = now_s
        return self.left

    def wait_s(self, amount: float) -> float:
        """Seconds until so much is left."""
        return max(0.0, (amount - self.left) * 60 / self.per_minute)


class Allowances:
    """The state behind the keys' limits; times are a monotonic clock's seconds."""

    def __init__(self) -> None:
        self._requests: dict[str, Bucket] = {}
        self._tokens: dict[str, Bucket] = {}
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def admitted(self, key: Key, now_s: float) -> Iterator[None]:
        """Count a request of a key in, and out at the block's end.

        Raises:
            RefusedError: one of the key's limits is reached; when to come back.
        """
        if key.in_flight is not None and self._under_way[key.id] >= key.in_flight:
            raise _limited(f"{key.in_flight} requests are under way", BUSY_RETRY_S)
        tokens = _bucket(self._tokens, key.id, key.tokens_per_minute, now_s)
        if tokens and tokens.refill(now_s) <= 0:
            raise _limited(f"{tokens.per_minute} tokens a minute are used", tokens.wait_s(1))
        requests = _bucket(self._requests, key.id, key.requests_per_minute, now_s)
        if requests and requests.refill(now_s) < 1:
            raise _limited(f"{requests.per_minute} requests a minute are made", requests.wait_s(1))
        if requests:
            requests.left -= 1
        self._under_way[key.id] += 1
        try:
            yield
        finally:
            self._under_way[key.id] -= 1

    def spend(self, key: Key, tokens: int) -> None:
        """Charge the tokens of an answer, which are known only after it."""
        if key.id in self._tokens:
            self._tokens[key.id].left -= tokens


class Places:
    """Answers under way at each source, up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: Counter[str] = Counter()

    def taken(self, source: str) -> int:
        """Answers under way or waiting at a source."""
        return self._taken[source]

    @contextmanager
    def taking(self, source: str, answers: int) -> Iterator[None]:
        """Hold places at a source for the block.

        Raises:
            RefusedError: there are not so many free.
        """
        if self._taken[source] + answers > self._limit:
            raise RefusedError(
                429,
                f"{source} has {self._taken[source]} answers under way and takes {self._limit}; "
                "try again in a moment.",
                code="source_busy",
                retry_after_s=BUSY_RETRY_S,
            )
        self._taken[source] += answers
        try:
            yield
        finally:
            self._taken[source] -= answers


def _bucket(
    buckets: dict[str, Bucket], id_: str, per_minute: int | None, now_s: float
) -> Bucket | None:
    if per_minute is None:
        buckets.pop(id_, None)
        return None
    if id_ not in buckets or buckets[id_].per_minute != per_minute:
        buckets[id_] = Bucket(per_minute, float(per_minute), now_s)
    return buckets[id_]


def _limited(what: str, retry_after_s: float) -> RefusedError:
    return RefusedError(
        429,
        f"The limit of your key is reached: {what}; try again in {max(1, round(retry_after_s))} s.",
        code="rate_limit_exceeded",
        retry_after_s=retry_after_s,
    )
