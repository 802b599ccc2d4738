"""A check of one operation of an endpoint against its OpenAPI document."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.services.gateway.asking import NAMES

READS = [
    *("GET /healthz", "GET /readyz", "GET /metrics"),
    *("GET /v1/models", "GET /v1/endpoint", "GET /v1/preferences"),
]
ASKS = ["POST /v1/chat/completions", "POST /v1/completions", "POST /v1/fanout"]
GOOD, BAD = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
CASES = [*((read, GOOD) for read in READS), *((ask, mode) for ask in ASKS for mode in (GOOD, BAD))]


def operations_of(document: Any) -> dict[str, Any]:
    """The operations of a document by their names."""
    found = (result.ok() for result in document.get_all_operations())
    return {operation.label: operation for operation in found}


def check_operation(
    operation: Any,
    mode: GenerationMode,
    headers: dict[str, str],
    *,
    examples: int,
    **transport: Any,
) -> None:
    """Send many requests, by the schema or against it, and hold the answers against the document.

    `transport` says how they are sent, as `requests` takes it.
    Rules that no schema can say (fields that contradict each other) may refuse good requests.
    """

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if mode is GOOD and isinstance(case.body, dict):
            _aim(case.body)
        case.call_and_validate(
            headers=headers, excluded_checks=[positive_data_acceptance], **transport
        )

    check()


def _aim(body: dict[str, Any]) -> None:
    """Name sources that there are, else all is a 404; and keep the answers short."""
    if "model" in body:
        body["model"] = NAMES[0]
    if body.get("models"):
        body["models"] = list(NAMES)
    body["max_tokens"] = min(body.get("max_tokens") or 8, 8)
