"""SIGKILL at random moments of sampling and scoring, the same command again: nothing lost or twice.

CRUCIBLE_KILLS sets how many (20), CRUCIBLE_SEED which moments (0).
"""

import itertools
import os
import random
import time
from pathlib import Path

import pytest
import yaml

from tests.integration.watched import HERE, WatchedRun, processes

pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("CRUCIBLE_KILLS", "20"))
SEED = int(os.environ.get("CRUCIBLE_SEED", "0"))
VICTIMS = ("a replica", "a Ray worker", "the driver", "an engine")
TITLES = {"a replica": "ServeReplica", "a Ray worker": "MapWorker", "an engine": "EngineCore"}
WANTED = 4 * (480 + 480 + 100) + 100 + 4 * 5


def _recipe(folder: Path) -> Path:
    limits = {"instruction-train": 480, "math-train": 480, "code-train": 100, "chinese-train": 100}
    changes = {
        "extends": str(HERE / "sampling.yaml"),
        "datasets": [{"name": name, "limit": limit} for name, limit in limits.items()],
    }
    path = folder / "kills.yaml"
    path.write_text(yaml.safe_dump(changes))
    return path


def _until_it_moves(run: WatchedRun, process) -> bool:
    """Wait for the next commit; False where the command ended instead."""
    before = run.activity
    while run.activity == before and process.poll() is None:
        time.sleep(0.1)
    return process.poll() is None


def _kill(victim: str, process, chance: random.Random) -> bool:
    if victim == "the driver":
        process.kill()
        return True
    found = processes(process.pid, TITLES[victim])
    if found:
        chance.choice(found).kill()
    return bool(found)


def _killed_until_done(run: WatchedRun, victims, chance: random.Random, most: int) -> list[bool]:
    """Start the command again and again, killing meanwhile, until it ends well.

    For every kill, whether it came while answers were scored.
    """
    killed: list[bool] = []
    for _ in range(most + 1):
        with run.started() as process:
            while _until_it_moves(run, process) and len(killed) < most:
                time.sleep(chance.uniform(0, 5))
                victim = next(victims)
                if process.poll() is None and _kill(victim, process, chance):
                    killed.append(run.activity[1] > 0)
                    print(f"killed {victim} at {run.activity}", flush=True)
            output, _ = process.communicate(timeout=600)
        if process.returncode == 0:
            return killed
    raise AssertionError(output[-4000:])


def test_every_answer_and_score_is_there_once_however_often_it_was_killed(tmp_path):
    chance = random.Random(SEED)
    victims = itertools.cycle(VICTIMS)
    num_killed = num_while_scoring = 0
    for number in itertools.count():
        storage = tmp_path / str(number)
        storage.mkdir()
        run = WatchedRun(storage, ("ingest", "sample", "score"), _recipe(storage))
        killed = _killed_until_done(run, victims, chance, KILLS - num_killed)
        num_killed += len(killed)
        num_while_scoring += sum(killed)
        answers = run.stored_ids("responses", "response_id")
        assert len(answers) == len(set(answers)) == WANTED
        assert not run.generated_again()
        assert sorted(_rows(run, "scores", "response_id", "scorer")) == _wanted_scores(run)
        if num_killed >= KILLS:
            break
    assert 0 < num_while_scoring < num_killed, "not every stage was hit: take another CRUCIBLE_SEED"


def _wanted_scores(run: WatchedRun) -> list[tuple[str, str]]:
    """response_id and scorer: every answer once by the reward, and by its prompt's verifier."""
    verifiers = dict(_rows(run, "prompts", "prompt_id", "verifier"))
    answers = _rows(run, "responses", "response_id", "prompt_id")
    scorers = [(id_, "reward") for id_, _ in answers]
    return sorted(scorers + [(id_, verifiers[p]) for id_, p in answers if verifiers[p]])


def _rows(run: WatchedRun, table: str, *columns: str) -> list[tuple[str, str]]:
    return list(zip(*(run.stored_ids(table, column) for column in columns), strict=True))
