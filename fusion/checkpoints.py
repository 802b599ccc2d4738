"""Checkpoints: folders of plain Hugging Face files, named by the hash of their inputs."""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fusion.identity import KEY_LENGTH, content_hash
from fusion.run import Run
from fusion.store import Location


def checkpoint_location(run: Run, stage: str, inputs: Mapping[str, str]) -> Location:
    """Where the model that a stage makes of these inputs belongs."""
    key = content_hash(dict(inputs), length=KEY_LENGTH)
    return run.folder / "checkpoints" / f"{stage}-{key}"


def upload(folder: Path, location: Location) -> None:
    """Copy the files of a folder; config.json goes last, so a checkpoint that has it is whole."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    for path in sorted(files, key=lambda p: p.name == "config.json"):
        (location / path.name).write_bytes(path.read_bytes())


def is_complete(location: Location) -> bool:
    """Whether a checkpoint was uploaded to its end."""
    return (location / "config.json").exists()


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
            (part / entry.name).write_bytes((source / entry.name).read_bytes())
        try:
            part.rename(target)
        except OSError:  # another process of this node was faster
            shutil.rmtree(part)
    return str(target)
