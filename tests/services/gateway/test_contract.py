"""The endpoint does what its OpenAPI document says, and nothing else, whatever it is sent."""

import pytest
import schemathesis

from fusion.keys import Keyring, make_key, write_keyring
from fusion.store import Location
from services.gateway.app import build_app
from tests.services.gateway.asking import EchoSources, bearer, run_of
from tests.services.gateway.contract import ASKS, CASES, READS, check_operation, operations_of
from tests.services.page.canned import pair_row, write_pairs

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """The operations of an endpoint with keys, by their names, and a key for them."""
    place = tmp_path_factory.mktemp("keys") / "keys.json"
    made = make_key("ann")
    write_keyring(Location.of(place), Keyring(keys=(made.key,)))
    run = run_of(place.parent, keys=str(place))
    write_pairs(run, [pair_row(number) for number in range(4)])
    app = build_app(run, EchoSources())
    document = schemathesis.openapi.from_asgi("/openapi.json", app)
    return operations_of(document), bearer(made.token)


def test_every_operation_is_checked(keyed):
    assert {*READS, *ASKS} <= set(keyed[0])


@pytest.mark.parametrize(("label", "mode"), CASES)
def test_every_answer_is_as_documented(keyed, label, mode):
    operations, headers = keyed
    check_operation(operations[label], mode, headers, examples=50)
