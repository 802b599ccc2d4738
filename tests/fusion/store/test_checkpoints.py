"""Saved steps, on disk and on S3: whole or not there, and which of them is the best."""

import pytest

from fusion.checkpoints import (
    best_step,
    commit_step,
    committed_steps,
    delete_step,
    fetch_step,
    step_folder,
    step_note,
    upload_step,
)


@pytest.fixture
def saved(tmp_path):
    """A folder with a step's files, one in a folder of its own."""
    folder = tmp_path / "step"
    (folder / "optimizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "optimizer" / "shard").write_bytes(b"moments")
    return folder


def test_a_step_counts_only_once_it_is_committed(storage, saved):
    steps = storage / "steps"
    upload_step(saved, steps / "00000004")
    assert committed_steps(steps) == []
    commit_step(steps / "00000004", {"step": 4})
    assert committed_steps(steps) == [steps / "00000004"]
    assert step_note(steps / "00000004") == {"step": 4}


def test_steps_come_oldest_first_and_a_deleted_one_is_gone(storage, saved):
    steps = storage / "steps"
    for number in (10, 2, 100):
        upload_step(saved, steps / f"{number:08d}")
        commit_step(steps / f"{number:08d}", {"step": number})
    assert [step_note(s)["step"] for s in committed_steps(steps)] == [2, 10, 100]
    delete_step(committed_steps(steps)[0])
    assert [step_note(s)["step"] for s in committed_steps(steps)] == [10, 100]


def test_a_step_can_be_read_as_a_folder_and_is_copied_only_from_elsewhere(storage, tmp_path, saved):
    step, scratch = storage / "steps" / "00000004", tmp_path / "scratch"
    upload_step(saved, step)
    fetch_step(step, scratch)
    folder = step_folder(step, scratch)
    assert (folder / "optimizer" / "shard").read_bytes() == b"moments"
    assert scratch.exists() == (storage.scheme == "s3")


def test_the_best_step_has_the_least_loss_then_the_best_accuracy_then_is_the_last():
    def note(step: int, loss: float, accuracy: float) -> dict[str, float]:
        return {"step": step, "held_out/loss": loss, "held_out/rewards/accuracies": accuracy}

    assert best_step([note(1, 0.5, 0.9), note(2, 0.4, 0.1)]) == 1
    assert best_step([note(1, 0.4, 0.9), note(2, 0.4, 0.1)]) == 0
    assert best_step([{"step": 1}, {"step": 2}]) == 1
