"""All that the endpoint's routes share: sources, keys, limits, and the books."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from starlette.requests import Request

from fusion.run import Run
from fusion.verification import Limits, Verifiers
from services.gateway.accounts import Account, Audit, Metrics, Use
from services.gateway.allowance import Allowances, Places
from services.gateway.doorkeeper import Doorkeeper
from services.gateway.refusals import RefusedError
from services.gateway.sources import Sources

DOWN_RETRY_S = 5.0


class Desk:
    """One gateway's sources, keys, limits and books."""

    def __init__(self, run: Run, sources: Sources) -> None:
        """Read the keys and open the books.

        Raises:
            BadInputError: the keys file is no keys file.
        """
        self.run = run
        self.sources = sources
        self.endpoint = run.recipe.endpoint
        self.limits = self.endpoint.limits
        self.doorkeeper = Doorkeeper(self.endpoint.keys)
        self.allowances = Allowances()
        self.places = Places(self.limits.in_flight)
        self.metrics = Metrics()
        self.audit = Audit(_audit_file(run), with_text=self.endpoint.audit_text)
        checks = run.recipe.verification
        self.verifiers = Verifiers(
            Limits(math_timeout_s=checks.math.timeout_s, workers=checks.workers)
        )

    def settle(self, account: Account) -> None:
        """Enter a request that is over into the books."""
        self.metrics.request(account)
        self.audit.write(account)
        if account.key:
            self.allowances.spend(account.key, account.tokens)


@dataclass
class Visit:
    """One request at the desk; what it holds is freed when it ends, however it ends."""

    desk: Desk
    account: Account
    held: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def of(cls, request: Request) -> "Visit":
        """The visit that the guard has let in."""
        visit: Visit = request.state.visit
        return visit

    def allowed(self) -> list[str]:
        """The sources that this request may ask."""
        key = self.account.key
        return [n for n in self.desk.sources.names if key is None or key.allows(n)]

    def check_may_ask(self, source: str) -> None:
        """See that a source exists and that the key may ask it.

        Raises:
            RefusedError: it does not, or it may not.
        """
        if source not in self.desk.sources.names:
            raise RefusedError(
                404,
                f"There is no source {source!r}; GET /v1/models lists those there are.",
                param="model",
                code="model_not_found",
            )
        if source not in self.allowed():
            raise RefusedError(
                403,
                f"Your key may not ask {source}; GET /v1/models lists what it may.",
                param="model",
                code="source_not_allowed",
            )

    @contextmanager
    def asking(self, source: str, answers: int = 1) -> Iterator[Use]:
        """Hold places at a source for the block, and an account of what it uses.

        Raises:
            RefusedError: the source has too much to do.
        """
        with self.desk.places.taking(source, answers):
            use = self.account.use(source)
            self.desk.metrics.begin(use, self.account.who)
            try:
                yield use
            finally:
                self.desk.metrics.end(use, self.account.who)


def _audit_file(run: Run) -> str | None:
    own = run.folder / "logs" / "audit.jsonl"
    return run.recipe.endpoint.audit or (own.path if own.scheme == "file" else None)


def source_down(source: str, why: str) -> RefusedError:
    """The refusal where a source does not answer."""
    return RefusedError(
        503,
        f"The source {source} does not answer: {why}; try again, or ask another.",
        param="model",
        code="source_down",
        retry_after_s=DOWN_RETRY_S,
    )
