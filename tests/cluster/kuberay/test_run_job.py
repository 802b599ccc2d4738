"""The RayJob's entrypoint and runtime environment, run by `ray job submit` on one node."""

import json
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.cluster.kuberay.head import RAY, Head, running_head
from tests.cluster.kuberay.rendered import (
    Object,
    cluster_specs,
    groups,
    only,
    overlay,
    recipe_file,
)
from tests.docker.image import stages

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head(cpus=4) as head:
        yield head


def _job() -> Object:
    return only(overlay("kind"), "RayJob")["spec"]


def _submit(head: Head, recipe: Path, *more: str) -> subprocess.CompletedProcess[str]:
    entrypoint = [
        str(recipe) if word == "/etc/crucible/recipe.yaml" else word
        for word in shlex.split(_job()["entrypoint"])
    ]
    assert str(recipe) in entrypoint
    environment = json.dumps(yaml.safe_load(_job()["runtimeEnvYAML"]))
    command = [RAY, "job", "submit", "--address", head.dashboard]
    command += ["--runtime-env-json", environment, "--", *entrypoint, *more]
    return subprocess.run(
        command, env=head.environment, capture_output=True, text=True, timeout=200, cwd="/"
    )


def _recipe(folder: Path) -> Path:
    path = recipe_file(overlay("kind"), folder)
    path.write_text(path.read_text().replace("/storage/", f"{folder}/"))
    return path


def test_the_job_runs_as_the_manifest_says_and_its_result_is_stored(head, tmp_path):
    done = _submit(head, _recipe(tmp_path), "--stage", "ingest")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "succeeded" in done.stdout
    manifest = json.loads((tmp_path / "runs/rehearsal/manifests/ingest.json").read_text())
    assert manifest["counts"]["results"] > 1000


def test_bad_input_fails_the_job_with_its_one_sentence(head, tmp_path):
    done = _submit(head, _recipe(tmp_path), "--stage", "ingset")
    assert done.returncode != 0
    assert "There is no stage ingset" in done.stdout


def test_probes_of_the_manifests_answer_without_the_token_and_the_job_api_does_not(head):
    probes = {
        probe["httpGet"]["path"]
        for spec in cluster_specs(overlay("kind")).values()
        for group in groups(spec)
        for container in group["template"]["spec"]["containers"]
        for name, probe in container.items()
        if name.endswith("Probe")
    }
    assert probes
    for path in probes:
        assert httpx.get(f"http://127.0.0.1:{head.agent_port}{path}").status_code == 200
    assert httpx.get(f"{head.dashboard}/api/jobs/").status_code == 401


def test_the_image_s_health_check_passes_with_the_token_and_fails_with_another(head):
    (check,) = [i for i in stages()["cpu"] if i.name == "HEALTHCHECK"]
    assert check.words[0] == "ray"
    environment = {**head.environment, "RAY_ADDRESS": head.address}
    assert subprocess.run([RAY, *check.words[1:]], env=environment).returncode == 0
    wrong = {**environment, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    assert subprocess.run([RAY, *check.words[1:]], env=wrong).returncode != 0
