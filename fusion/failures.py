"""Why an answer may be missing, and how often it is tried before that is final."""

from collections.abc import Sequence
from dataclasses import dataclass

# One death is the machine's fault. After two, the request itself may be what kills the engine.
SUSPECTED_AFTER = 2
_SUSPECTS_AT_FIRST = 64
# A share among few says little: sampling is not stopped before so many answers have failed.
FAILURES_BEFORE_A_STOP = 100
_EXAMPLES = 3
_EXAMPLE_LENGTH = 160


@dataclass(frozen=True)
class Rule:
    """How an answer that fails in one way is treated."""

    attempts: int
    """Tries in all; 1 means that it is never tried again."""
    new_seed: bool = False
    """Whether the next try draws with another seed; the same one would fail alike."""
    by_machine: bool = False
    """Whether it was the machine or its limits: once they are mended, the request may pass."""


RULES = {
    "template": Rule(1),  # the chat template refuses these messages, today and tomorrow
    "too_long": Rule(1),  # the prompt fills the context
    "rejected": Rule(1),  # the engine takes the request for wrong
    "timeout": Rule(3, by_machine=True),
    "engine_error": Rule(3, by_machine=True),  # the engine failed on this request alone
    # engine, replica or node went down while they held the request
    "engine_died": Rule(6, by_machine=True),
    "empty": Rule(3, new_seed=True),
    "looping": Rule(2, new_seed=True),
}


@dataclass(frozen=True)
class Failure:
    """One answer that failed for good."""

    response_id: str
    reason: str
    detail: str


def rule_of(reason: str, *, greedy: bool = False) -> Rule:
    """The rule for a reason; what depends on the seed is final where the seed plays no part."""
    rule = RULES[reason]
    return Rule(1) if greedy and rule.new_seed else rule


def suspects_together(deaths: int) -> int:
    """How many answers that saw so many deaths are sent at a time, with nothing else in flight.

    A quarter of the last time, and at last one: so the request that kills is found, and those that
    were beside it are answered.
    """
    return max(1, _SUSPECTS_AT_FIRST >> 2 * (deaths - SUSPECTED_AFTER))


def is_settled(reason: str, attempts: int) -> bool:
    """Whether a row in quarantine stays there: its attempts are used up, or a retry is pointless.

    What depends on the seed is settled once written, as a likeliest token has one attempt only;
    so are reasons that are not of sampling, such as those of imported answers.
    """
    rule = RULES.get(reason)
    return rule is None or rule.new_seed or attempts >= rule.attempts


def is_by_machine(reason: str) -> bool:
    """Whether a failure was the machine's, so that a try on one that was mended may pass."""
    rule = RULES.get(reason)
    return rule is not None and rule.by_machine


def exceeds(failed: int, asked: int, limit: float) -> bool:
    """Whether so many failed that what is wrong is not the single prompt."""
    return failed > limit * asked


def say_excess(who: str, failed: int, asked: int, limit: float, last: Sequence[Failure]) -> str:
    """The sentence that ends sampling: the count, the limit and up to three examples."""
    examples = "; ".join(
        f"{f.response_id} {f.reason}: {f.detail[:_EXAMPLE_LENGTH]}" for f in last[-_EXAMPLES:]
    )
    return (
        f"{failed:,} of the {asked:,} answers asked of {who} failed and failures.limit is "
        f"{limit:g} ({examples}); mend the cause, or raise failures.limit, and start the same "
        "command again."
    )
