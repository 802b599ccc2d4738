"""The gateway as a Serve config deploys it, behind Serve's own proxy; its sources are down."""

import socket

import httpx
import pytest
from ray import serve

from cluster.connection import connected
from fusion.recipe_file import load_recipe
from fusion.run import Run
from services.applications import down
from services.gateway.ingress import Gateway, gateway_application
from tests.integration.serving import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def base():
    """Where Serve's proxy listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with connected():
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def recipe(tmp_path):
    return load_recipe(ROOT / "rehearsal" / "recipe.yaml").model_copy(
        update={"storage": str(tmp_path)}
    )


def test_it_answers_and_refuses_in_openai_s_shape(base, recipe):
    serve.run(gateway_application(recipe), name="gateway", route_prefix="/")
    try:
        assert httpx.get(f"{base}/healthz").json() == {"status": "ok"}
        body = {"model": "llama", "messages": [{"role": "user", "content": "x"}]}
        refused = httpx.post(f"{base}/v1/chat/completions", json=body)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "source_down"
    finally:
        down(["gateway"])


def test_a_second_replica_of_it_does_not_start(base, recipe):
    two = serve.deployment(Gateway, num_replicas=2, max_constructor_retry_count=1)
    with pytest.raises(RuntimeError, match="two failed"):
        serve.run(two.bind(Run(recipe)), name="two", route_prefix="/")
    told = serve.status().applications["two"].deployments["Gateway"].message
    down(["two"])
    assert "set num_replicas of the deployment Gateway to 1" in told
