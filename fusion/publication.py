"""What of a run is published: its data set and its models, as files under their names."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

from fusion.errors import BadInputError
from fusion.store import Location

# Lies in everything that was published, and tells it from what somebody else wrote.
MARK = "crucible.json"
CARD = "README.md"

# Of a checkpoint, what a model is loaded from; the rest is the trainer's own (and may be pickled).
_OF_A_MODEL = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*")
_OF_THE_TRAINER = ("trainer_state.json", "complete.json")
_PARTS = ("*.parquet", "*.safetensors")

Content = Location | bytes


@dataclass(frozen=True)
class Publication:
    """A data set or a model: its files by their path, the card among them."""

    kind: Literal["dataset", "model"]
    name: str
    """dataset, sft or dpo."""
    files: Mapping[str, Content]


def dataset_files(folder: Location, card: str) -> dict[str, Content]:
    """The Parquet files of a run's data set, and its card."""
    parts = [entry for entry in folder.list(recursive=True) if entry.name.endswith(".parquet")]
    return {CARD: card.encode(), **{part.name: folder / part.name for part in parts}}


def model_files(checkpoint: Location, card: str) -> dict[str, Content]:
    """The files that a checkpoint's model is loaded from, and its card."""
    names = [entry.name for entry in checkpoint.list() if not entry.is_folder]
    files: dict[str, Content] = {n: checkpoint / n for n in names if _belongs_to_model(n)}
    return {**files, CARD: card.encode()}


def mark(
    files: Mapping[str, Content], facts: Mapping[str, Any], kept: Mapping[str, str] | None = None
) -> bytes:
    """The content of `MARK`: facts of the run, and the SHA-256 of every file.

    `kept` are the hashes of files that lie there already and stay.
    """
    hashes = {path: hashlib.sha256(read(content)).hexdigest() for path, content in files.items()}
    hashes = dict(sorted({**(kept or {}), **hashes}.items()))
    return (json.dumps({**facts, "files": hashes}, indent=2) + "\n").encode()


def read(content: Content) -> bytes:
    """The bytes of a file."""
    return content.read_bytes() if isinstance(content, Location) else content


def stale_parts(existing: Iterable[str], files: Iterable[str]) -> list[str]:
    """Tables and weights of an earlier publication, which would be loaded with the new ones."""
    gone = set(existing) - set(files)
    return sorted(path for path in gone if any(fnmatch(path, part) for part in _PARTS))


def check_ours(place: str, existing: Iterable[str]) -> None:
    """See that a place is empty, or holds what an earlier publication wrote.

    Raises:
        BadInputError: somebody else's files are there.
    """
    names = sorted(existing)
    if names and MARK not in names:
        raise BadInputError(
            f"{place} holds files that crucible publish did not write, such as {names[0]}; give an "
            "empty or a new one."
        )


def write_folder(
    publications: Iterable[Publication], folder: Location, facts: Mapping[str, Any]
) -> None:
    """Write everything into one folder: `dataset/`, `sft/` and `dpo/`.

    The mark comes first, so that a publication that was cut short can be made again. What an
    earlier publication of the run put under other names stays.

    Raises:
        BadInputError: the folder holds somebody else's files, or those of another run would stay.
    """
    existing = [entry.name for entry in folder.list(recursive=True) if not entry.is_folder]
    check_ours(str(folder), existing)
    files = {
        f"{publication.name}/{path}": content
        for publication in publications
        for path, content in publication.files.items()
    }
    names = {_name(path) for path in files}
    others = {path for path in existing if path != MARK and _name(path) not in names}
    kept = _kept(folder, others, facts) if MARK in existing else {}
    (folder / MARK).write_bytes(mark(files, facts, kept))
    for path, content in files.items():
        (folder / path).write_bytes(read(content))
    for path in stale_parts(set(existing) - others, files):
        (folder / path).delete()


def _name(path: str) -> str:
    """The publication that a file of a folder belongs to."""
    return path.split("/", maxsplit=1)[0]


def _kept(folder: Location, others: set[str], facts: Mapping[str, Any]) -> dict[str, str]:
    """The hashes of what was published before of the same run and recipe and stays."""
    try:
        earlier = json.loads((folder / MARK).read_bytes())
        kept = {path: sha for path, sha in earlier["files"].items() if path in others}
        is_same = all(earlier[fact] == facts[fact] for fact in ("run", "recipe"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInputError(f"{folder / MARK} is damaged; publish to a new folder.") from None
    if kept and not is_same:
        raise BadInputError(
            f"{folder} holds {', '.join(sorted({_name(path) for path in kept}))} of another run or "
            "recipe; give a new folder, or publish all."
        )
    return kept


def _belongs_to_model(name: str) -> bool:
    is_trainers = any(fnmatch(name, pattern) for pattern in _OF_THE_TRAINER)
    return not is_trainers and any(fnmatch(name, pattern) for pattern in _OF_A_MODEL)
