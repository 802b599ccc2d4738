"""Fixtures of the verification tests; the tests that run programs skip where nothing isolates."""

from collections.abc import Iterator

import pytest

from fusion.verification import Limits, Verifiers
from fusion.verification.code.bubblewrap import Bubblewrap


@pytest.fixture(scope="session")
def verifiers() -> Iterator[Verifiers]:
    with Verifiers(Limits(workers=2)) as verifiers:
        yield verifiers


@pytest.fixture(scope="session")
def sandbox() -> None:
    hindrance = Bubblewrap(Limits()).available()
    if hindrance is not None:
        pytest.skip(f"NO PROGRAM WAS RUN: {hindrance}")
