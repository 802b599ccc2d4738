"""What a model is on disk or on the hub, and which engine options vLLM knows."""

import ast
import difflib
import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from fusion.errors import BadInputError, one_line
from fusion.recipe_file import HUB_ID

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_GENERATORS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
# As in Qwen2ForSequenceClassification, and in ArmoRM's LlamaForRewardModelWithGating.
_SCORERS = ("SequenceClassification", "RewardModel")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_INDEX = "model.safetensors.index.json"
_PLAIN: Mapping[str, tuple[type, ...]] = {
    "None": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "str": (str,),
}


class UnknownOption(NamedTuple):
    """An engine option that vLLM does not have, and the one that was probably meant."""

    name: str
    nearest: str | None


class MistypedOption(NamedTuple):
    """An engine option, its value, and the type that vLLM has for it."""

    name: str
    value: Any
    type: str


def is_local(model: str) -> bool:
    """Whether a model is a folder of this machine."""
    return os.path.isdir(model)


def check_model(model: str, revision: str | None) -> None:
    """See that a model is a folder with all that is needed, or a hub id and revision.

    Raises:
        BadInputError: it is neither, or the folder lacks configuration, tokenizer or weights.
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
    """See that a local model is one that writes text; one elsewhere passes.

    Raises:
        BadInputError: it is a classifier, a reward model or the like.
    """
    kinds = configuration(model).get("architectures") or []
    if kinds and not any(kind.endswith(_GENERATORS) for kind in kinds):
        raise BadInputError(
            f"{model} is a {', '.join(kinds)}, which does not write text; give a causal language "
            "model."
        )


def check_scores(model: str) -> None:
    """See that a local model is one that scores conversations; one elsewhere passes.

    transformers would load a language model as a classifier all the same, with a random head.

    Raises:
        BadInputError: it is a language model or the like.
    """
    kinds = configuration(model).get("architectures") or []
    if kinds and not any(part in kind for kind in kinds for part in _SCORERS):
        raise BadInputError(
            f"{model} is a {', '.join(kinds)}, which gives no score; give a sequence classifier "
            "with one output, or for kind armorm an ArmoRM."
        )


def check_layers(model: str, names: Iterable[str]) -> None:
    """See that a local model has layers of these names; one elsewhere passes.

    Raises:
        BadInputError: the first that it lacks, and those that it has.
    """
    tensors = [f".{name}" for name in weight_map(Path(model))]
    for name in names if tensors else ():
        if not any(tensor.endswith(f".{name}.weight") for tensor in tensors):
            layers = {tensor.split(".")[-2] for tensor in tensors if tensor.endswith(".weight")}
            raise BadInputError(
                f"{model} has no layer {name}; name some of {', '.join(sorted(layers))}."
            )


def weight_map(folder: Path) -> dict[str, str]:
    """The file of each tensor of a model in safetensors; nothing for another model."""
    from safetensors import safe_open

    index, whole = folder / _INDEX, folder / "model.safetensors"
    if index.is_file():
        return dict(_read_object(index)["weight_map"])
    if not whole.is_file():
        return {}
    with safe_open(whole, framework="np") as tensors:
        return dict.fromkeys(tensors.keys(), whole.name)


def context_length(model: str) -> int | None:
    """The longest sequence a model's configuration allows; None for one that is not here."""
    length = configuration(model).get("max_position_embeddings")
    return length if isinstance(length, int) else None


def configuration(model: str) -> dict[str, Any]:
    """What the config.json of a local model says, nothing for a model elsewhere.

    Raises:
        BadInputError: it is no JSON object.
    """
    file = Path(model) / "config.json"
    return _read_object(file) if file.is_file() else {}


def weights_bytes(model: str) -> int | None:
    """Bytes of a local model's weights; None where it is not here or has none.

    An index names the total of all shards, also of those that are not downloaded yet.
    """
    folder = Path(model)
    index = folder / _INDEX
    if index.is_file():
        total = _read_object(index).get("metadata", {}).get("total_size")
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
    unknown = sorted(set(options) - known.keys())
    return [UnknownOption(name, _nearest(name, known)) for name in unknown]


def mistyped_engine_options(options: Mapping[str, Any]) -> list[MistypedOption]:
    """The options whose value is not of vLLM's type, where that is a plain one."""
    known = known_engine_options() or {}
    return [
        MistypedOption(name, value, known[name])
        for name, value in options.items()
        if name in known and not _is_of_type(value, known[name])
    ]


@cache
def known_engine_options() -> Mapping[str, str] | None:
    """Fields of vLLM's AsyncEngineArgs and their types, None where vLLM is not installed.

    They are read from its source: importing vLLM takes about 14 seconds.
    """
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / "engine" / "arg_utils.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {
        field.target.id: ast.unparse(field.annotation)
        for statement in tree.body
        if isinstance(statement, ast.ClassDef)
        and statement.name in ("EngineArgs", "AsyncEngineArgs")
        for field in statement.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


def _is_of_type(value: Any, annotation: str) -> bool:
    """Whether a value is of a type as written in Python; of one that is not plain all are."""
    names = annotation.split(" | ")
    if not _PLAIN.keys() >= set(names):
        return True
    return type(value) in {kind for name in names for kind in _PLAIN[name]}


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise BadInputError(f"{folder} has no config.json; give the folder of a whole model.")
    if "model_type" not in configuration(str(folder)):
        raise BadInputError(
            f"{folder}/config.json names no model_type; give a model that transformers saved."
        )
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise BadInputError(
            f"{folder} has no tokenizer ({', '.join(_TOKENIZER_FILES)}); save it beside the model."
        )
    if missing := _missing_weights(folder):
        raise BadInputError(f"{folder} has no weights {missing}; give the folder of a whole model.")


def _missing_weights(folder: Path) -> str | None:
    """The shard that an index names and the folder lacks, or what weights are called."""
    index = folder / _INDEX
    if index.is_file():
        shards = _read_object(index).get("weight_map", {}).values()
        return next((name for name in sorted(shards) if not (folder / name).is_file()), None)
    has_any = any(any(folder.glob(pattern)) for pattern in _WEIGHTS)
    return None if has_any else f"({', '.join(_WEIGHTS)})"


def _read_object(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInputError(
            f"{file} is not JSON ({one_line(error)}); give the folder of a whole model."
        ) from None
    if not isinstance(read, dict):
        raise BadInputError(f"{file} holds no JSON object; give the folder of a whole model.")
    return read


def _nearest(name: str, known: Mapping[str, str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)), None)
