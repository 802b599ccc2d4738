"""What a node says of itself in its environment."""

import pytest

from cluster.settings import isolator
from fusion.errors import BadInputError


def test_programs_are_kept_in_by_bubblewrap_unless_the_node_says_its_pod_does(monkeypatch):
    monkeypatch.delenv("CRUCIBLE_ISOLATOR", raising=False)
    assert isolator() == "bubblewrap"
    monkeypatch.setenv("CRUCIBLE_ISOLATOR", "pod")
    assert isolator() == "pod"


def test_an_isolator_that_there_is_not_is_refused_and_nothing_falls_back(monkeypatch):
    monkeypatch.setenv("CRUCIBLE_ISOLATOR", "none")
    with pytest.raises(BadInputError, match="set it to bubblewrap or pod"):
        isolator()
