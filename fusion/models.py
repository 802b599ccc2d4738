"""What a model is on disk or on the hub, and which engine options vLLM knows."""

import ast
import difflib
import json
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fusion.errors import BadInputError
from fusion.recipe_file import HUB_ID

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_GENERATORS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


class UnknownOption(NamedTuple):
    """An engine option that vLLM does not have, and the one that was probably meant."""

    name: str
    nearest: str | None


def is_local(model: str) -> bool:
    """Whether a model is a folder of this machine."""
    return Path(model).is_dir()


def check_model(model: str, revision: str | None) -> None:
    """See that a model is a folder with configuration and tokenizer, or a hub id and revision.

    Raises:
        BadInputError: it is neither.
    """
    if is_local(model):
        _check_folder(Path(model))
        return
    if not (HUB_ID.match(model) and revision):
        given = model if revision is None else f"{model} at {revision}"
        raise BadInputError(
            f"{given} is neither a local path nor a hub id with a revision; give a folder that "
            "exists, or owner/name and the key revision."
        )


def check_generates(model: str) -> None:
    """See that a local model is one that writes text, as training needs it; one elsewhere passes.

    Raises:
        BadInputError: it is a classifier, a reward model or the like.
    """
    file = Path(model) / "config.json"
    if not file.is_file():
        return
    kinds = json.loads(file.read_text(encoding="utf-8")).get("architectures") or []
    if kinds and not any(kind.endswith(_GENERATORS) for kind in kinds):
        raise BadInputError(
            f"{model} is a {', '.join(kinds)}, which does not write text; give a causal language "
            "model to train."
        )


def context_length(model: str) -> int | None:
    """The longest sequence a model's configuration allows; None for one that is not here."""
    file = Path(model) / "config.json"
    if not file.is_file():
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    length = config.get("max_position_embeddings")
    return length if isinstance(length, int) else None


def weights_bytes(model: str) -> int | None:
    """Bytes of a local model's weights; None where it is not here or has none.

    An index names the total of all shards, also of those that are not downloaded yet.
    """
    folder = Path(model)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        total = json.loads(index.read_text(encoding="utf-8")).get("metadata", {}).get("total_size")
        if total is not None:
            return int(total)
    for pattern in _WEIGHTS:
        if files := list(folder.glob(pattern)):
            return sum(file.stat().st_size for file in files)
    return None


def unknown_engine_options(options: Iterable[str]) -> list[UnknownOption]:
    """The options that vLLM's engine does not have; none where vLLM is not installed."""
    known = known_engine_options()
    if known is None:
        return []
    unknown = sorted(set(options) - known)
    return [UnknownOption(name, _nearest(name, known)) for name in unknown]


@cache
def known_engine_options() -> frozenset[str] | None:
    """Field names of vLLM's AsyncEngineArgs, None where vLLM is not installed.

    They are read from its source: importing vLLM takes about 14 seconds.
    """
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / "engine" / "arg_utils.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(
        field.target.id
        for statement in tree.body
        if isinstance(statement, ast.ClassDef)
        and statement.name in ("EngineArgs", "AsyncEngineArgs")
        for field in statement.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    )


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise BadInputError(f"{folder} has no config.json; give the folder of a whole model.")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise BadInputError(
            f"{folder} has no tokenizer ({', '.join(_TOKENIZER_FILES)}); save it beside the model."
        )


def _nearest(name: str, known: frozenset[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)), None)
