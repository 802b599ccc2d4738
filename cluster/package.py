"""The working directory of a job: Crucible's code, the recipe, and the files that it names."""

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import fusion
from fusion.errors import BadInputError
from fusion.recipe import Recipe

RECIPE_FILE = "recipe.yaml"
INPUTS = "inputs"
# Ray's job server takes no request larger than this (DASHBOARD_CLIENT_MAX_SIZE, 100 MiB).
LARGEST_BYTES = 100 << 20
ID_LENGTH = 12
_CODE = ("fusion", "cluster", "services", "jobs")
_LEFT_OUT = {"__pycache__", ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
# What runs where the endpoint is, not in a job, and what a job writes to.
_STAYS = ("storage", "endpoint")
_EARLIEST = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """A zip file that is the same for the same content, and the recipe in it."""

    content: bytes
    digest: str


def package(recipe: Recipe, *, shared: tuple[Path, ...] = ()) -> Package:
    """Pack the code, the resolved recipe and its local files; paths under `shared` stay paths.

    Raises:
        BadInputError: the files are more than a job may bring along, or the storage is a path
            that only this machine knows.
    """
    _check_storage(recipe.storage)
    raw = recipe.model_dump(mode="json")
    staying = {key: raw.pop(key) for key in _STAYS}
    inputs = _inputs(raw, shared)
    resolved = {**_with_inputs(raw, inputs), **staying}
    files = {**_code_files(), **_input_files(inputs)}
    _check_size(files, inputs)
    contents = {name: path.read_bytes() for name, path in files.items()}
    text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)
    contents[RECIPE_FILE] = text.encode()
    packed = _zip(contents)
    return Package(packed, hashlib.sha256(packed).hexdigest()[:ID_LENGTH])


def _check_storage(storage: str) -> None:
    if "://" in storage or Path(storage).is_absolute():
        return
    raise BadInputError(
        f"The storage {storage} is relative to a folder of this machine; for a job give s3:// or "
        "the absolute path of a folder that all nodes share."
    )


def _inputs(raw: Any, shared: tuple[Path, ...]) -> dict[str, str]:
    """Each local path that the recipe names -> its place in the package."""
    found = sorted(
        text
        for text in set(_texts(raw))
        if Path(text).is_absolute()
        and Path(text).exists()
        and not any(Path(text).is_relative_to(folder) for folder in shared)
    )
    return {text: f"{INPUTS}/{number}-{Path(text).name}" for number, text in enumerate(found)}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _with_inputs(value: Any, inputs: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return inputs.get(value, value)
    if isinstance(value, Mapping):
        return {key: _with_inputs(item, inputs) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_inputs(item, inputs) for item in value]
    return value


def _code_files() -> dict[str, Path]:
    root = Path(fusion.__file__).parent.parent
    return {str(path.relative_to(root)): path for name in _CODE for path in _files_in(root / name)}


def _input_files(inputs: Mapping[str, str]) -> dict[str, Path]:
    files = {}
    for text, place in inputs.items():
        path = Path(text)
        if path.is_file():
            files[place] = path
        else:
            files |= {f"{place}/{p.relative_to(path)}": p for p in _files_in(path)}
    return files


def _files_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not _LEFT_OUT & set(path.relative_to(folder).parts):
            yield path


def _check_size(files: Mapping[str, Path], inputs: Mapping[str, str]) -> None:
    sizes = {name: path.stat().st_size for name, path in files.items()}
    if sum(sizes.values()) <= LARGEST_BYTES:
        return
    by_input = {
        text: sum(size for name, size in sizes.items() if name.startswith(place))
        for text, place in inputs.items()
    }
    largest = max(by_input, key=lambda text: by_input[text])
    raise BadInputError(
        f"The files of the recipe are {sum(sizes.values()) / 1e6:,.0f} MB, most of it {largest}, "
        f"and a job brings at most {LARGEST_BYTES / 1e6:,.0f} MB along; put them where all nodes "
        "find them under the same path and name that folder with --shared, or use the hub or s3://."
    )


def _zip(contents: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            archive.writestr(zipfile.ZipInfo(name, _EARLIEST), contents[name], zipfile.ZIP_DEFLATED)
    return stream.getvalue()
