"""What `crucible serve` checks before anything starts."""

import pytest

from fusion.errors import BadInputError
from fusion.recipe import Endpoint
from jobs.serve import check_endpoint


def test_serving_says_who_may_ask(tmp_path):
    assert "loopback only" in check_endpoint(Endpoint())
    said = check_endpoint(Endpoint(keys=str(tmp_path / "keys.json")))
    assert "crucible keys create NAME --keys" in said


def test_a_missing_certificate_is_told_before_anything_starts(tmp_path):
    endpoint = Endpoint(tls_certificate=str(tmp_path / "c.pem"), tls_key=str(tmp_path / "k.pem"))
    with pytest.raises(BadInputError, match=r"endpoint\.tls_certificate is .*no such file"):
        check_endpoint(endpoint)
