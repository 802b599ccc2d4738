"""The small world of the selection tests."""

import pytest

from tests.fusion.selection.conftest import Answer, make_world


@pytest.fixture(scope="session")
def answer():
    return Answer


@pytest.fixture(scope="session")
def world():
    return make_world
