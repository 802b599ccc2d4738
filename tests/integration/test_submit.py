"""Jobs of a real cluster: by hand from a checkout, left alone, looked at, followed and stopped."""

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import ray
import yaml
from ray.job_submission import JobDetails, JobStatus

from cluster.job import STOP_ENVIRONMENT, JobServer
from cluster.package import Package
from tests.conftest import RayCluster
from tests.integration.watched import HERE, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
REHEARSAL = ROOT / "rehearsal" / "recipe.yaml"
LINES = 40
EMPTY_ZIP = b"PK\x05\x06" + bytes(18)


@pytest.fixture(scope="module")
def cluster(ray_cluster) -> RayCluster:
    ray_cluster.add_worker("--num-cpus=3")
    ray_cluster.wait_for_workers(1)
    return ray_cluster


@pytest.fixture(scope="module")
def server(cluster) -> JobServer:
    return JobServer(cluster.address, cluster.token)


def _ended(process: subprocess.Popen[str], *, code: int = 0) -> str:
    output, _ = process.communicate(timeout=200)
    assert process.returncode == code, output[-6000:]
    return output


def _after_its_end(server: JobServer, name: str) -> JobDetails:
    wait_until(lambda: server.job(name).status.is_terminal(), timeout_s=90)
    return server.job(name)


@dataclass(frozen=True)
class Stopped:
    """A job that was left alone, and stopped when its source had given answers."""

    name: str
    state_when_left: JobStatus
    logs: str
    end: JobDetails
    logs_at_the_end: str


@pytest.fixture(scope="module")
def stopped(cluster, server, tmp_path_factory) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    recipe, storage = folder / "recipe.yaml", folder / "runs"
    recipe.write_text(yaml.safe_dump({"extends": str(HERE / "sampling.yaml"), "name": "stopped"}))
    stages = ("--stage=ingest", "--stage=sample", f"--set=storage={storage}")
    said = _ended(cluster.submit(recipe, "--no-wait", *stages))
    name = said.split()[1]
    state = server.job(name).status
    wait_until(lambda: list(storage.glob("store/responses/**/*.parquet")), timeout_s=150)
    logs = _ended(cluster.submit("logs", name))
    assert f"{name} is stopping" in _ended(cluster.submit("stop", name))
    end = _after_its_end(server, name)
    return Stopped(name, state, logs, end, server.logs(name))


def test_a_job_that_is_not_waited_for_runs_on(stopped):
    assert stopped.state_when_left in (JobStatus.PENDING, JobStatus.RUNNING)


def test_its_logs_are_shown_while_it_runs(stopped):
    assert "starting llama" in stopped.logs and "llama up after" in stopped.logs


def test_a_stopped_job_has_the_time_to_take_its_models_down(cluster, stopped):
    assert stopped.end.status == JobStatus.STOPPED
    assert "the same command resumes" in stopped.logs_at_the_end
    headers = {"Authorization": f"Bearer {cluster.token}"}
    told = httpx.get(f"{cluster.address}/api/serve/applications/", headers=headers, timeout=30)
    assert told.json()["applications"] == {}
    assert not cluster.running(cluster.workers[0], "ServeReplica")


def test_a_job_that_is_not_known_cannot_be_looked_at_or_stopped(cluster, stopped):
    for action in ("logs", "stop"):
        said = _ended(cluster.submit(action, f"{stopped.name}-9"), code=2)
        assert f"knows no job {stopped.name}-9" in " ".join(said.split())


class _Line:
    """What lies between a job server and who follows; it can be cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection that is up; the next ones pass."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def close(self) -> None:
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._server.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._port))
                self._ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def _line(port: int) -> Iterator[_Line]:
    line = _Line(port)
    try:
        yield line
    finally:
        line.close()


def test_following_goes_on_where_it_was_when_the_connection_is_lost(cluster):
    print_lines = f"for i in $(seq {LINES}); do echo line $i; sleep 0.2; done; exit 3"
    written: list[str] = []
    num_cuts = 0
    with _line(cluster.dashboard) as line:
        server = JobServer(line.address, cluster.token)
        name = server.submit("lines", print_lines, Package(EMPTY_ZIP, "0"), {})

        def write(text: str) -> None:
            nonlocal num_cuts
            written.append(text)
            if num_cuts < 2 and f"line {10 * (num_cuts + 1)}\n" in "".join(written):
                num_cuts += 1
                line.cut()

        assert server.follow(name, write) == 3
    assert num_cuts == 2
    lines = [text for text in "".join(written).splitlines() if text.startswith("line ")]
    assert lines == [f"line {i}" for i in range(1, LINES + 1)]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The files of this checkout, beside what people have in theirs."""
    folder = tmp_path / "checkout"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for place in (".git/objects", ".venv/lib", "runs/store", "jobs/__pycache__"):
        (folder / place).mkdir(parents=True)
        (folder / place / "large.pyc").write_bytes(b"0" * (16 << 20))
    return folder


def test_a_job_by_hand_runs_from_a_checkout_and_takes_what_runs_and_no_more(cluster, checkout):
    command = [str(Path(sys.executable).parent / "ray"), "job", "submit"]
    command += ["--address", cluster.address, "--working-dir", "."]
    command += ["--runtime-env-json", json.dumps({"env_vars": STOP_ENVIRONMENT}), "--"]
    command += ["python", "-m", "jobs", "run", "rehearsal/recipe.yaml", "--stage", "ingest"]
    done = subprocess.run(
        command, env=cluster.environment, cwd=checkout, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "ingest " in done.stdout and "done " in done.stdout
    (stored,) = cluster.folder.rglob("runs/rehearsal/manifests/ingest.json")
    unpacked = stored.parents[3]
    folders = {path.name for path in unpacked.iterdir() if path.is_dir()}
    packages = {"fusion", "cluster", "services", "jobs", "recipes", "rehearsal"}
    assert folders - {".ci"} == packages | {"runs"}
    assert not list(unpacked.rglob("large.pyc"))
    assert sum(f.stat().st_size for f in unpacked.rglob("*") if f.is_file()) < 32 << 20


def _joining(
    cluster: RayCluster, recipe: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A run that joins the cluster; its Ray is the one that `RAY_OF_RUN` names."""
    code = "import os, ray\nray.__version__ = os.environ.get('RAY_OF_RUN', ray.__version__)\n"
    code += "from jobs.__main__ import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", code, "run", str(recipe), "--stage", "sft"],
        env={**cluster.environment, "RAY_ADDRESS": f"{cluster.host}:{cluster.gcs}", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )


def _refusal(cluster: RayCluster, **variables: str) -> str:
    done = _joining(cluster, REHEARSAL, **variables)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize("variables", [{"RAY_AUTH_TOKEN": "wrong"}, {"RAY_AUTH_MODE": "disabled"}])
def test_a_wrong_token_and_none_for_a_cluster_to_join_are_told(cluster, variables):
    assert "asks for another token; set RAY_AUTH_MODE to token" in _refusal(cluster, **variables)


def test_a_cluster_of_another_ray_is_not_joined_and_both_versions_are_told(cluster):
    said = _refusal(cluster, RAY_OF_RUN="2.9.0")
    assert "cannot be joined" in said and "correct it to HEAD:6379 of a cluster of this Ray" in said
    assert f"Ray: {ray.__version__}" in said and "Ray: 2.9.0" in said


def test_a_run_on_a_cluster_that_grows_says_how_many_nodes_it_asked(cluster, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    grows = {"grows_to": "1x4xCPU-16GB"}
    changes = {"extends": str(REHEARSAL), "storage": str(tmp_path / "runs"), "cluster": grows}
    recipe.write_text(yaml.safe_dump(changes))
    said = " ".join(_joining(cluster, recipe).stdout.split())
    assert f"nodes that reach {tmp_path}" in said
    assert "1; those that come later are not asked" in said
