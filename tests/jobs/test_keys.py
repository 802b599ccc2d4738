"""`crucible keys` at the command line."""

import json

import pytest
from typer.testing import CliRunner

from fusion.keys import read_keyring
from fusion.store import Location
from jobs.__main__ import app


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """Runs `crucible keys ...` with a config folder of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def run(*arguments, code=0):
        done = CliRunner().invoke(app, ["keys", *map(str, arguments)])
        assert done.exit_code == code, (done.output, done.exception)
        return done.stdout if code == 0 else " ".join(done.stderr.split())

    return run


def test_a_key_is_shown_once_and_kept_in_the_user_s_config_folder(keys, tmp_path):
    token = keys("create", "ann").split()[0]
    file = tmp_path / "crucible" / "keys.json"
    assert read_keyring(Location.of(file)).find(token).name == "ann"
    assert token not in file.read_text() + keys("list")
    assert "ann" in keys("list")


def test_limits_and_expiry_are_kept(keys, tmp_path):
    limits = ("--requests-per-minute", 60, "--tokens-per-minute", 9000, "--in-flight", 4)
    place = tmp_path / "other.json"
    made = json.loads(
        keys("create", "ann", "--source", "a", "--days", 30, *limits, "--keys", place, "--json")
    )
    key = read_keyring(Location.of(place)).find(made["key"])
    assert (key.requests_per_minute, key.tokens_per_minute, key.in_flight) == (60, 9000, 4)
    assert key.sources == ("a",)
    assert round((key.expires_at - key.created_at).total_seconds() / 86_400) == 30


def test_a_revoked_key_is_listed_as_such(keys):
    keys("create", "ann")
    assert json.loads(keys("revoke", "ann", "--json"))["state"] == "revoked"
    (row,) = json.loads(keys("list", "--json"))
    assert row["state"] == "revoked"
    assert not {"salt", "hash"} & set(row)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "two words"], "name"),
        (["create", "ann", "--days", "0"], "--days is 0"),
        (["create", "ann", "--in-flight", "0"], "in_flight"),
        (["create", "ann", "--keys", "ftp://x/y"], "unknown scheme"),
        (["revoke", "nobody"], "no key named nobody"),
    ],
)
def test_bad_input_is_one_sentence(keys, arguments, words):
    assert words in keys(*arguments, code=2)


def test_a_keys_file_that_is_none_is_not_overwritten(keys, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("mine")
    assert "is no keys file" in keys("create", "ann", "--keys", broken, code=2)
    assert broken.read_text() == "mine"
