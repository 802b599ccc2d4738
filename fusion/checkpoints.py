"""Checkpoints: folders of plain Hugging Face files, named by the hash of their inputs, and the
steps from which a killed training goes on.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion.identity import KEY_LENGTH, content_hash
from fusion.run import Run
from fusion.store import Location

# The file that a step has last: without it the step was not saved to its end.
STEP_MARK = "complete.json"
# The file of a checkpoint that says which saved step it is, and which others it was chosen from.
CHOICE_FILE = "choice.json"
CHUNK_BYTES = 1 << 24


def checkpoint_location(run: Run, stage: str, inputs: Mapping[str, str]) -> Location:
    """Where the model that a stage makes of these inputs belongs."""
    key = content_hash(dict(inputs), length=KEY_LENGTH)
    return run.folder / "checkpoints" / f"{stage}-{key}"


def upload(folder: Path, location: Location) -> None:
    """Copy the files of a folder; config.json goes last, so a checkpoint that has it is whole."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    for path in sorted(files, key=lambda p: p.name == "config.json"):
        _copy_in(path, location / path.name)


def is_complete(location: Location) -> bool:
    """Whether a checkpoint was uploaded to its end."""
    return (location / "config.json").exists()


def upload_step(folder: Path, location: Location) -> None:
    """Copy what one node holds of a step; it counts once `commit_step` says so."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        _copy_in(path, location / str(path.relative_to(folder)))


def commit_step(location: Location, note: Mapping[str, Any]) -> None:
    """Mark a step as saved to its end, with a note about it."""
    (location / STEP_MARK).write_text(json.dumps(note))


def committed_steps(folder: Location) -> list[Location]:
    """The steps saved to their end, oldest first."""
    names = [entry.name for entry in folder.list() if entry.is_folder]
    return [folder / name for name in names if (folder / name / STEP_MARK).exists()]


def step_note(step: Location) -> dict[str, Any]:
    """What was noted when the step was committed."""
    note: dict[str, Any] = json.loads((step / STEP_MARK).read_text())
    return note


def best_step(notes: Sequence[Mapping[str, Any]]) -> int:
    """The place of the step with the least loss on the rows kept back.

    Of two alike the one with the better accuracy, or the later; so the last where no rows were
    kept back. Notes come oldest first.
    """

    def rank(place: int) -> tuple[float, float, int]:
        note = notes[place]
        accuracy = note.get("held_out/rewards/accuracies", 0.0)
        return (note.get("held_out/loss", 0.0), -accuracy, -place)

    return min(range(len(notes)), key=rank)


def delete_step(step: Location) -> None:
    """Delete a step, its mark first, so that a half deleted one does not count."""
    (step / STEP_MARK).delete()
    step.delete()


def step_folder(step: Location, scratch: Path) -> Path:
    """Where `fetch_step` puts a step: itself where it is a folder of this machine."""
    return Path(step.path) if step.scheme == "file" else scratch / step.name


def fetch_step(step: Location, scratch: Path) -> None:
    """Copy a step of an object store to `scratch`."""
    if step.scheme == "file":
        return
    for entry in step.list(recursive=True):
        if not entry.is_folder:
            _copy_out(step / entry.name, scratch / step.name / entry.name)


def local_copy(model: str) -> str:
    """A folder of this machine with the model: itself, or a copy of one under s3://."""
    if not model.startswith("s3://"):
        return model
    digest = hashlib.sha256(model.encode()).hexdigest()[:KEY_LENGTH]
    target = Path(tempfile.gettempdir()) / f"crucible-model-{digest}"
    if not (target / "config.json").exists():
        part = Path(tempfile.mkdtemp(prefix="crucible-model-"))
        source = Location.of(model)
        for entry in source.list():
            if not entry.is_folder:
                _copy_out(source / entry.name, part / entry.name)
        try:
            part.rename(target)
        except OSError:  # another process of this node was faster
            shutil.rmtree(part)
    return str(target)


def _copy_in(path: Path, location: Location) -> None:
    """Copy a file into the store piece by piece; weights do not fit into memory twice."""
    if location.scheme == "file":
        Path(location.path).parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as source, location.filesystem.open_output_stream(location.path) as sink:
        while piece := source.read(CHUNK_BYTES):
            sink.write(piece)
    if location.scheme == "file":
        _sync(Path(location.path))


def _copy_out(location: Location, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with location.filesystem.open_input_stream(location.path) as source, path.open("wb") as sink:
        while piece := source.read(CHUNK_BYTES):
            sink.write(piece)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
