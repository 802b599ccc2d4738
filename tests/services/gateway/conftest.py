"""The endpoint's real app over sources that live in this process."""

import pytest
from starlette.testclient import TestClient

from fusion.keys import Keyring, make_key, with_key, write_keyring
from fusion.store import Location
from services.gateway.app import build_app
from tests.services.gateway.asking import EchoSources, run_of


@pytest.fixture
def sources():
    return EchoSources()


@pytest.fixture
def started(sources, tmp_path):
    """Starts the app with endpoint options and gives a client; `keys` are made as asked."""
    clients = []

    def start(*, headers=None, **endpoint):
        run = run_of(tmp_path, has_reward=sources.has_reward, **endpoint)
        client = TestClient(build_app(run, sources), "http://localhost:8000", headers=headers)
        clients.append(client)
        return client.__enter__()

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def keys_file(tmp_path):
    """Writes a keys file with keys of given options; gives its path and the tokens."""
    place = tmp_path / "keys.json"

    def write(**options):
        ring, tokens = Keyring(), {}
        for name, limits in options.items():
            made = make_key(name, **limits)
            ring, tokens[name] = with_key(ring, made.key), made.token
        write_keyring(Location.of(place), ring)
        return str(place), tokens

    return write
