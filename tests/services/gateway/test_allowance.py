"""Limits over time, by a clock of the test's own."""

import pytest

from fusion.keys import make_key
from services.gateway.allowance import Allowances, Places
from services.gateway.refusals import RefusedError


def _admit(allowances, key, at_s):
    try:
        with allowances.admitted(key, at_s):
            return None
    except RefusedError as error:
        return error.retry_after_s


def test_requests_come_back_evenly_over_the_minute():
    key, allowances = make_key("ann", requests_per_minute=6).key, Allowances()
    assert [_admit(allowances, key, 0) for _ in range(6)] == [None] * 6
    assert _admit(allowances, key, 0) == pytest.approx(10)
    assert _admit(allowances, key, 4) == pytest.approx(6)
    assert _admit(allowances, key, 10) is None
    assert _admit(allowances, key, 10) == pytest.approx(10)
    assert [_admit(allowances, key, 1000) for _ in range(7)][5:] == [None, pytest.approx(10)]


def test_tokens_may_be_overdrawn_once_and_then_have_to_be_waited_for():
    key, allowances = make_key("ann", tokens_per_minute=60).key, Allowances()
    assert _admit(allowances, key, 0) is None
    allowances.spend(key, 90)
    assert _admit(allowances, key, 0) == pytest.approx(31)
    assert _admit(allowances, key, 29) == pytest.approx(2)
    assert _admit(allowances, key, 31) is None


def test_keys_do_not_share_their_limits():
    ann, bob = (make_key(name, requests_per_minute=1).key for name in ("ann", "bob"))
    allowances = Allowances()
    assert _admit(allowances, ann, 0) is _admit(allowances, bob, 0) is None
    assert _admit(allowances, ann, 0) is not None


def test_a_place_is_free_again_after_an_error():
    places = Places(2)
    with pytest.raises(ValueError, match="broken"), places.taking("llama", 2):
        raise ValueError("broken")
    with places.taking("llama", 1), places.taking("llama", 1), places.taking("gemma", 2):
        assert places.taken("llama") == 2
        with pytest.raises(RefusedError, match="takes 2"), places.taking("llama", 1):
            pass
    assert places.taken("llama") == 0
