"""Keys: found by their secret alone, kept as hashes, ended by name."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.errors import BadInputError
from fusion.keys import (
    Keyring,
    make_key,
    parse_keyring,
    read_keyring,
    with_key,
    without_key,
    write_keyring,
)
from fusion.store import Location

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANN, BOB = make_key("ann"), make_key("bob", sources=("gemma",))
RING = Keyring(keys=(ANN.key, BOB.key))


def test_a_token_finds_its_key_and_no_other():
    assert RING.find(ANN.token) == ANN.key
    assert RING.find(BOB.token) == BOB.key


@given(st.text())
def test_no_other_text_finds_a_key(text):
    assert RING.find(text) is None
    assert RING.find(f"crucible-{ANN.key.id}-{text}") is None


@pytest.mark.parametrize("place", range(len("crucible-"), len(ANN.token)))
def test_a_token_with_one_letter_changed_finds_nothing(place):
    changed = "A" if ANN.token[place] != "A" else "B"
    token = ANN.token[:place] + changed + ANN.token[place + 1 :]
    assert RING.find(token) is None


def test_equal_secrets_have_unequal_hashes():
    made = {make_key("ann").key.hash for _ in range(10)} | {
        make_key("ann").token for _ in range(10)
    }
    assert len(made) == 20


def test_a_keys_file_keeps_no_secret_and_gives_the_keys_back(tmp_path):
    place = Location.of(tmp_path / "config" / "keys.json")
    assert read_keyring(place) == Keyring()
    write_keyring(place, RING)
    assert read_keyring(place) == RING
    assert ANN.token.split("-", 2)[-1] not in place.read_text()


def test_a_revoked_key_is_still_found_so_that_its_holder_can_be_told():
    ring = without_key(RING, "ann", NOW)
    found = ring.find(ANN.token)
    assert found is not None
    assert found.state(NOW) == "revoked"
    assert ring.find(BOB.token).state(NOW) == "valid"


def test_a_name_is_free_again_once_its_key_is_revoked():
    with pytest.raises(BadInputError, match="revoke it first"):
        with_key(RING, make_key("ann").key)
    again = make_key("ann")
    ring = with_key(without_key(RING, "ann", NOW), again.key)
    assert ring.find(again.token).state(NOW) == "valid"
    assert ring.find(ANN.token).state(NOW) == "revoked"


def test_a_key_expires_at_its_moment():
    key = make_key("ann", expires_at=NOW).key
    assert key.state(NOW - timedelta(seconds=1)) == "valid"
    assert key.state(NOW) == "expired"


def test_a_key_is_limited_to_its_sources():
    assert BOB.key.allows("gemma")
    assert not BOB.key.allows("llama")
    assert ANN.key.allows("llama")


def test_revoking_a_key_that_is_not_there_names_those_that_are():
    with pytest.raises(BadInputError, match="ann, bob"):
        without_key(RING, "carl", NOW)


@pytest.mark.parametrize("options", [{"requests_per_minute": 0}, {"in_flight": -1}])
def test_a_limit_that_makes_no_sense_is_refused(options):
    with pytest.raises(BadInputError, match=next(iter(options))):
        make_key("ann", **options)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"keys": [{}]}', b'{"kys": []}', b"\xff"])
def test_a_file_that_holds_no_keys_is_refused_in_one_sentence(data):
    with pytest.raises(BadInputError, match="is no keys file"):
        parse_keyring(data, origin="here.json")
