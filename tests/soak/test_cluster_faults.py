"""The rehearsal as a job of a cluster that loses its head, then a worker in every stage.

Each loss comes when the stage has something to lose: answers or scores committed, a step saved.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from fusion.run import STAGES
from tests.integration.watched import WatchedRun, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
REHEARSAL = ROOT / "rehearsal" / "recipe.yaml"
NAME, SOURCES = "rehearsal", ("llama", "gemma", "mistral", "qwen")
SAMPLES, ANSWERING = 4, len(SOURCES) + 3
MODELS = {"base", "sft", "dpo", *SOURCES}
SOURCE, REWARD, TRAINER = f"{NAME}-source", f"{NAME}-reward", "RayTrainWorker"


@dataclass
class Faulty:
    """What was seen of a run that went on after every loss."""

    run: WatchedRun
    said_without_head: str = ""
    code_without_head: int = 0
    steps: dict[Path, set[int]] = field(default_factory=dict)
    """When each saved step of a training was written; more than one time is a step done twice."""

    @property
    def wanted(self) -> int:
        """Answers of all prompts that ingest let through."""
        rows = self.manifest("ingest")["yields"]["datasets"]
        each = {name: of["results"] for name, of in rows.items()}
        chinese = each.pop("chinese-train")  # asked once
        held_out = sum(number for name, number in each.items() if name.endswith("-test"))
        others = sum(each.values()) - held_out
        return len(SOURCES) * (SAMPLES * others + chinese) + ANSWERING * held_out

    def manifest(self, stage: str) -> dict:
        """What a stage says of itself."""
        return json.loads((self.run.storage / NAME / "manifests" / f"{stage}.json").read_text())

    def saved(self, stage: str) -> list[Path]:
        """The steps that are there of a training."""
        trainings = self.run.storage / NAME / "checkpoints"
        return list(trainings.glob(f"{stage}-*/work/steps/*/complete.json"))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note answers and saved steps while the block runs."""
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,))
        watcher.start()
        try:
            with self.run.watching():
                yield
        finally:
            done.set()
            watcher.join()

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(0.1):
            for note in (*self.saved("sft"), *self.saved("dpo")):
                try:
                    self.steps.setdefault(note, set()).add(note.stat().st_mtime_ns)
                except FileNotFoundError:
                    continue  # later steps replace it


def _add_workers(cluster, number: int) -> None:
    for _ in range(number):
        cluster.add_worker("--num-cpus=4", '--resources={"sandbox": 2}')


@pytest.fixture(scope="module")
def faulty(ray_cluster, tmp_path_factory) -> Faulty:
    """The run, after its head and three workers were lost."""
    folder = tmp_path_factory.mktemp("faults")
    recipe, saving = folder / "recipe.yaml", {"save_steps": 10}
    faulty = Faulty(WatchedRun(folder / "runs", STAGES, recipe))
    run, cluster = faulty.run, ray_cluster
    changes: dict[str, object] = {
        "extends": str(REHEARSAL),
        "name": NAME,
        "storage": str(run.storage),
    }
    told = {"enable_log_requests": True}
    changes["sources"] = [{"name": name, "engine": told} for name in SOURCES]
    recipe.write_text(yaml.safe_dump(changes | {"sft": saving, "dpo": saving}))
    cluster.environment.update(run.environment)
    _add_workers(cluster, 3)
    cluster.wait_for_workers(3)
    with faulty.watching():
        job = cluster.submit(recipe)
        _wait_for(lambda: len(run.committed) > 500, job)
        cluster.kill_all()
        cluster.start_head()
        faulty.said_without_head = job.communicate(timeout=120)[0]
        faulty.code_without_head = job.returncode

        _add_workers(cluster, 3)
        cluster.wait_for_workers(3)
        job, before = cluster.submit(recipe), len(run.committed)
        _wait_for(lambda: len(run.committed) > before, job)
        _lose(cluster, SOURCE, job)
        _wait_for(lambda: run.activity[1], job)
        _lose(cluster, REWARD, job)
        _wait_for(lambda: faulty.saved("dpo"), job)
        _lose(cluster, TRAINER, job)
        output, _ = job.communicate(timeout=1800)
    assert job.returncode == 0, output[-6000:]
    return faulty


def _lose(cluster, at_work: str, job) -> None:
    cluster.lose(at_work, job, timeout_s=5)
    _add_workers(cluster, 1)


def _wait_for(condition: Callable[[], object], job) -> None:
    wait_until(lambda: condition() or job.poll() is not None, timeout_s=1200)
    assert job.poll() is None, job.communicate()[0][-6000:]


def test_who_follows_a_job_is_told_that_it_ended_with_its_head(faulty):
    last = " ".join(faulty.said_without_head.split())
    assert faulty.code_without_head == 1
    assert "was started anew" in last and "Traceback" not in last, last[-3000:]


def test_every_stage_s_manifest_balances(faulty):
    for stage in STAGES:
        counts = faulty.manifest(stage)["counts"]
        left = counts["results"] + sum(counts["dropped"].values())
        assert counts["entered"] == left + sum(counts["quarantined"].values()), stage


def test_every_wanted_answer_is_there_once_or_in_quarantine(faulty):
    ids = faulty.run.stored_ids("responses", "response_id")
    quarantined = sum(faulty.manifest("sample")["counts"]["quarantined"].values())
    assert len(ids) == len(set(ids)) == faulty.wanted - quarantined


def test_no_committed_answer_was_generated_again(faulty):
    taken = [id_ for _, id_ in faulty.run.taken()]
    assert len(taken) > len(set(taken)), "nothing was in flight when the nodes were lost"
    assert not faulty.run.generated_again()


def test_every_answer_is_scored_once(faulty):
    ids = faulty.run.stored_ids("scores", "score_id")
    assert len(ids) == len(set(ids))
    scored = set(faulty.run.stored_ids("scores", "response_id"))
    assert scored == set(faulty.run.stored_ids("responses", "response_id"))


def test_no_saved_step_was_trained_again(faulty):
    assert {note.parts[-5].partition("-")[0] for note in faulty.steps} == {"sft", "dpo"}
    assert all(len(written) == 1 for written in faulty.steps.values())


def test_the_result_has_every_model(faulty):
    result = json.loads((faulty.run.storage / NAME / "result.json").read_text())
    assert set(result["accuracy"]) >= MODELS
