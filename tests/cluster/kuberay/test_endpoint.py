"""The kind overlay's Serve config, deployed on a cluster of one node: the endpoint answers."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from tests.cluster.kuberay.head import Head, free_ports, running_head
from tests.cluster.kuberay.rendered import Object, only, overlay, recipe_file

pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.timeout(900)]

SERVE = str(Path(sys.executable).parent / "serve")


@dataclass(frozen=True)
class Endpoint:
    """A deployed endpoint."""

    head: Head
    address: str


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("endpoint")
    (port,) = free_ports(1)
    config = yaml.safe_load(only(overlay("kind"), "RayService")["spec"]["serveConfigV2"])
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    recipe = recipe_file(overlay("kind"), folder)
    recipe.write_text(recipe.read_text().replace("/storage/", f"{folder}/"))
    for application in config["applications"]:
        application["args"]["recipe"] = str(recipe)
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    with running_head(cpus=32) as head:
        command = [SERVE, "deploy", "--address", head.dashboard, str(file)]
        subprocess.run(command, env=head.environment, check=True)
        _wait_until_running(head)
        yield Endpoint(head, f"http://127.0.0.1:{port}")


def _applications(head: Head) -> dict[str, Object]:
    token = head.environment["RAY_AUTH_TOKEN"]
    reply = httpx.get(
        f"{head.dashboard}/api/serve/applications/", headers={"Authorization": f"Bearer {token}"}
    )
    return reply.raise_for_status().json()["applications"]


def _wait_until_running(head: Head) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        applications = _applications(head)
        states = {name: each["status"] for name, each in applications.items()}
        if set(states.values()) == {"RUNNING"}:
            return
        failed = [each["message"] for each in applications.values() if "FAILED" in each["status"]]
        assert not failed, failed
        time.sleep(1)
    pytest.fail(f"the applications did not come up: {states}")


def test_gateway_lists_the_source_and_answers_from_it(endpoint):
    with httpx.Client(base_url=endpoint.address, timeout=120) as client:
        assert client.get("/healthz").status_code == 200
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["llama"]
        body = {
            "model": "llama",
            "messages": [{"role": "user", "content": "Say river stone two times"}],
            "max_tokens": 16,
        }
        reply = client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"]


def test_only_the_gateway_has_a_route(endpoint):
    routes = {name: each["route_prefix"] for name, each in _applications(endpoint.head).items()}
    assert {name for name, route in routes.items() if route} == {"gateway"}
