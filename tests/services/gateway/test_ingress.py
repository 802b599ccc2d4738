"""What the gateway refuses before it starts."""

import pytest

from fusion.errors import BadInputError
from services.gateway.ingress import check_alone


def test_a_second_replica_does_not_start_as_it_would_double_every_limit():
    check_alone(1)
    with pytest.raises(BadInputError, match=r"2 replicas.*set num_replicas"):
        check_alone(2)
