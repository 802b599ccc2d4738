"""The kind overlay's Serve config, deployed on a cluster of one node: the endpoint answers."""

import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.cluster.kuberay.rendered import ROOT, Object, only, overlay, recipe_file

pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.timeout(900)]

SERVE = str(Path(sys.executable).parent / "serve")


@dataclass(frozen=True)
class Endpoint:
    """A deployed endpoint, and the cluster that it is on."""

    cluster: Any
    address: str
    key: str


@pytest.fixture(scope="module")
def endpoint(ray_cluster, tmp_path_factory) -> Endpoint:
    folder = tmp_path_factory.mktemp("endpoint")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = yaml.safe_load(only(overlay("kind"), "RayService")["spec"]["serveConfigV2"])
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    config["proxy_location"] = "HeadOnly"  # both nodes have this machine's ports
    recipe = recipe_file(overlay("kind"), folder)
    text = recipe.read_text().replace("/storage/", f"{folder}/")
    recipe.write_text(text.replace("/etc/crucible-keys/", f"{folder}/"))
    made = [sys.executable, "-m", "jobs", "keys", "create", "tester", "--json"]
    made += ["--keys", str(folder / "keys.json")]
    key = json.loads(subprocess.run(made, cwd=ROOT, capture_output=True, check=True).stdout)["key"]
    for application in config["applications"]:
        application["args"]["recipe"] = str(recipe)
        application["runtime_env"] = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    ray_cluster.add_worker("--num-cpus=32")
    ray_cluster.wait_for_workers(1)
    command = [SERVE, "deploy", "--address", ray_cluster.address, str(file)]
    subprocess.run(command, env=ray_cluster.environment, check=True)
    _wait_until_running(ray_cluster)
    return Endpoint(ray_cluster, f"http://127.0.0.1:{port}", key)


def _applications(cluster: Any) -> dict[str, Object]:
    headers = {"Authorization": f"Bearer {cluster.token}"}
    reply = httpx.get(f"{cluster.address}/api/serve/applications/", headers=headers)
    return reply.raise_for_status().json()["applications"]


def _wait_until_running(cluster: Any) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        applications = _applications(cluster)
        states = {name: each["status"] for name, each in applications.items()}
        if set(states.values()) == {"RUNNING"}:
            return
        failed = [each["message"] for each in applications.values() if "FAILED" in each["status"]]
        assert not failed, failed
        time.sleep(1)
    pytest.fail(f"the applications did not come up: {states}")


def test_gateway_lists_the_source_and_answers_from_it(endpoint):
    headers = {"Authorization": f"Bearer {endpoint.key}"}
    with httpx.Client(base_url=endpoint.address, headers=headers, timeout=120) as client:
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


def test_without_a_key_nothing_is_answered(endpoint):
    assert httpx.get(f"{endpoint.address}/v1/models").status_code == 401
    assert httpx.get(f"{endpoint.address}/metrics").status_code == 401


def test_only_the_gateway_has_a_route(endpoint):
    routes = {name: each["route_prefix"] for name, each in _applications(endpoint.cluster).items()}
    assert {name for name, route in routes.items() if route} == {"gateway"}
