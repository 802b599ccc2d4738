"""The kind overlay's Serve config, deployed on a head and a worker: the endpoint answers.

As in the manifest the head keeps its state in Redis, where there is one, and can be lost.
"""

import json
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from tests.cluster.kuberay.rendered import ROOT, Object, only, overlay, recipe_file
from tests.conftest import RayCluster, free_port

pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.timeout(900)]

SERVE = str(Path(sys.executable).parent / "serve")
REDIS = shutil.which("redis-server")


@dataclass(frozen=True)
class Endpoint:
    """A deployed endpoint, and the cluster that it is on."""

    cluster: RayCluster
    config: Path
    address: str
    key: str


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[RayCluster]:
    """A head, with Redis behind it where there is one."""
    cluster, redis = RayCluster(), None
    if REDIS:
        port, password = free_port(), secrets.token_hex(8)
        redis = subprocess.Popen(
            [REDIS, "--port", str(port), "--requirepass", password, "--save", ""],
            cwd=tmp_path_factory.mktemp("redis"),
            stdout=subprocess.DEVNULL,
        )
        cluster.head_options = (f"--redis-password={password}",)
        cluster.environment |= {
            "RAY_REDIS_ADDRESS": f"127.0.0.1:{port}",
            "RAY_external_storage_namespace": "endpoint",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # as KubeRay sets it
        }
    try:
        cluster.start_head()
        yield cluster
    finally:
        cluster.stop()
        if redis:
            redis.kill()
            redis.wait()


@pytest.fixture(scope="module")
def endpoint(cluster, tmp_path_factory) -> Endpoint:
    """The endpoint, deployed and up."""
    folder, port = tmp_path_factory.mktemp("endpoint"), free_port()
    config = yaml.safe_load(only(overlay("kind"), "RayService")["spec"]["serveConfigV2"])
    config["http_options"] = {"host": "127.0.0.1", "port": port}
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
    cluster.add_worker("--num-cpus=8")
    cluster.wait_for_workers(1)
    _deploy(cluster, file)
    _wait_until_running(cluster)
    up = Endpoint(cluster, file, f"http://127.0.0.1:{port}", key)
    _wait_until_listed(up, ["llama"])
    return up


def _deploy(cluster: RayCluster, config: Path) -> None:
    command = [SERVE, "deploy", "--address", cluster.address, str(config)]
    subprocess.run(command, env=cluster.environment, check=True)


def _wait_until_listed(endpoint: Endpoint, sources: list[str]) -> None:
    headers = {"Authorization": f"Bearer {endpoint.key}"}
    deadline, listed = time.monotonic() + 60, None
    while listed != sources and time.monotonic() < deadline:
        models = httpx.get(f"{endpoint.address}/v1/models", headers=headers).json()["data"]
        listed = [model["id"] for model in models]
        time.sleep(0.2)
    assert listed == sources


def _ask(endpoint: Endpoint) -> httpx.Response:
    body = {
        "model": "llama",
        "messages": [{"role": "user", "content": "Say river stone two times"}],
        "max_tokens": 16,
    }
    headers = {"Authorization": f"Bearer {endpoint.key}"}
    address = f"{endpoint.address}/v1/chat/completions"
    return httpx.post(address, json=body, headers=headers, timeout=120)


def _applications(cluster: RayCluster) -> dict[str, Object]:
    headers = {"Authorization": f"Bearer {cluster.token}"}
    reply = httpx.get(f"{cluster.address}/api/serve/applications/", headers=headers)
    return reply.raise_for_status().json()["applications"]


def _wait_until_running(cluster: RayCluster) -> None:
    deadline, states = time.monotonic() + 600, {}
    while time.monotonic() < deadline:
        try:
            applications = _applications(cluster)
        except httpx.HTTPError:  # a dashboard that has just started does not know Serve yet
            time.sleep(1)
            continue
        states = {name: each["status"] for name, each in applications.items()}
        if states and set(states.values()) == {"RUNNING"}:
            return
        failed = [each["message"] for each in applications.values() if "FAILED" in each["status"]]
        assert not failed, failed
        time.sleep(1)
    pytest.fail(f"the applications did not come up: {states}")


def test_gateway_lists_the_source_and_answers_from_it(endpoint):
    assert httpx.get(f"{endpoint.address}/healthz").status_code == 200
    reply = _ask(endpoint)
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"]


def test_without_a_key_nothing_is_answered(endpoint):
    assert httpx.get(f"{endpoint.address}/v1/models").status_code == 401
    assert httpx.get(f"{endpoint.address}/metrics").status_code == 401


def test_only_the_gateway_has_a_route(endpoint):
    routes = {name: each["route_prefix"] for name, each in _applications(endpoint.cluster).items()}
    assert {name for name, route in routes.items() if route} == {"gateway"}


@pytest.mark.skipif(REDIS is None, reason="needs redis-server")
def test_it_answers_while_the_head_is_away_and_follows_the_next_one(endpoint):
    assert endpoint.cluster.head
    endpoint.cluster.kill(endpoint.cluster.head)
    time.sleep(5)
    with pytest.raises(httpx.ConnectError):
        _applications(endpoint.cluster)
    replies = [_ask(endpoint) for _ in range(5)]
    assert [reply.status_code for reply in replies] == [200] * 5, replies[-1].text
    endpoint.cluster.start_head()
    _wait_until_running(endpoint.cluster)
    replies = [_ask(endpoint) for _ in range(5)]
    assert [reply.status_code for reply in replies] == [200] * 5, replies[0].text
    config = yaml.safe_load(endpoint.config.read_text())
    config["applications"] = [a for a in config["applications"] if "source" not in a["name"]]
    endpoint.config.write_text(yaml.safe_dump(config))
    _deploy(endpoint.cluster, endpoint.config)
    _wait_until_listed(endpoint, [])
