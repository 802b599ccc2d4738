"""Read a recipe file: inheritance, paths, and one plain sentence for each mistake."""

import difflib
import errno
import json
import os
import re
from pathlib import Path
from types import UnionType
from typing import Any, TypeGuard, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fusion.errors import BadInputError, one_line
from fusion.identity import content_hash
from fusion.paths import expand_home
from fusion.recipe import Recipe
from fusion.recipe_yaml import read_yaml

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_PATH_KEYS = {
    ("target", "model"),
    ("sources", "model"),
    ("sources", "path"),
    ("datasets", "path"),
    ("reward", "model"),
    ("reward", "path"),
    ("scorers", "model"),
    ("scorers", "path"),
    ("sft", "data"),
    ("dpo", "data"),
}
# Never a hub id; links stay links, as a mounted secret is changed by pointing its link elsewhere.
_FILE_KEYS = ("keys", "tls_certificate", "tls_key", "audit")
# What pydantic calls the types of a recipe's values.
_KINDS = {
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
LONGEST_SHOWN = 60
Raw = dict[str, Any]


def load_recipe(path: str | Path, parameters: dict[str, str] | None = None) -> Recipe:
    """The recipe in a file, `extends:` resolved and relative paths made absolute.

    `parameters` fill `${NAME}` in the file's texts.

    Raises:
        BadInputError: one sentence on the first mistake found.
    """
    given = _Parameters(parameters or {})
    raw = _load_raw(Path(path), given, seen=())
    given.check_used(Path(path))
    return parse_recipe(raw, origin=str(path))


def parse_recipe(raw: Raw, *, origin: str = "recipe") -> Recipe:
    """Validate an already read recipe.

    Raises:
        BadInputError: one sentence on the first mistake found.
    """
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise BadInputError(f"{origin}: {_first_mistake(error, raw)}") from None


def recipe_hash(recipe: Recipe) -> str:
    """Identity of the resolved recipe."""
    return content_hash(recipe.model_dump(mode="json"))


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, to be kept with the run."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def stored_recipe(data: bytes, *, origin: str) -> Recipe:
    """The recipe kept with a run: resolved, without inheritance or parameters.

    Raises:
        BadInputError: it is none.
    """
    try:
        raw = read_yaml(data.decode(), origin)
    except (BadInputError, UnicodeDecodeError):
        raw = None
    if not isinstance(raw, dict):
        raise BadInputError(f"{origin} is no recipe; run the recipe again to write it anew.")
    return parse_recipe(raw, origin=origin)


class _Parameters:
    """Values for `${NAME}`, and which of them a file has asked for."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values
        self._unused = set(values)

    def fill(self, text: str, path: Path) -> str:
        """The text of a file with values in place of names."""

        def value(match: re.Match[str]) -> str:
            if match[1] not in self._values:
                raise BadInputError(
                    f"{path} needs the parameter {match[1]}; give it as --set {match[1]}=VALUE."
                )
            self._unused.discard(match[1])
            return self._values[match[1]]

        return re.sub(r"\$\{(\w+)\}", value, text)

    def check_used(self, path: Path) -> None:
        """A value that nothing asks for is a slip."""
        if self._unused:
            name = min(self._unused)
            raise BadInputError(f"{path} has no ${{{name}}} for --set {name}; leave it out.")


def _load_raw(path: Path, parameters: _Parameters, seen: tuple[str, ...]) -> Raw:
    place = os.path.realpath(path)
    if place in seen:
        raise BadInputError(f"{path} extends itself; remove the circle of extends.")
    raw = _absolute_paths(_read_yaml(path, parameters), path.parent)
    parent = raw.pop("extends", None)
    if parent is None:
        return raw
    if not isinstance(parent, str):
        raise BadInputError(f"{path}: extends is {_shown(parent)}; give the path of one YAML file.")
    base = _load_raw(path.parent / expand_home(parent), parameters, (*seen, place))
    return merge(base, raw)


def _read_yaml(path: Path, parameters: _Parameters) -> Raw:
    if not os.path.isfile(path):
        raise BadInputError(f"There is no recipe {path}; give the path of a YAML file.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not YAML: {one_line(error)}; mend it.") from None
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {one_line(error)}.") from None
    raw = read_yaml(parameters.fill(text, path), str(path))
    if not isinstance(raw, dict):
        raise BadInputError(
            f"{path} holds {_shown(raw)}, not a recipe; give keys and values, as name: mine."
        )
    return raw


def merge(base: Raw, over: Raw) -> Raw:
    """`over` on `base`: mappings merge, lists of named items merge by name, all else replaces."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = merge(old, value)
        elif _named(old) and _named(value):
            merged[key] = _merge_named(old, value)
        else:
            merged[key] = value
    return merged


def _named(value: Any) -> TypeGuard[list[Raw]]:
    if not (isinstance(value, list) and value):
        return False
    return all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in value)


def _merge_named(base: list[Raw], over: list[Raw]) -> list[Raw]:
    changes = {item["name"]: item for item in over}
    merged = [merge(item, changes.pop(item["name"], {})) for item in base]
    return [*merged, *changes.values()]


def _absolute_paths(raw: Raw, folder: Path) -> Raw:
    """A relative path in a recipe is relative to the file that says it."""
    resolved = dict(raw)
    for section, key in sorted(_PATH_KEYS):
        value = resolved.get(section)
        if isinstance(value, list):
            resolved[section] = [_absolute(item, key, folder) for item in value]
        elif section == "scorers" and isinstance(value, dict):
            resolved[section] = {n: _absolute(item, key, folder) for n, item in value.items()}
        elif value is not None:
            resolved[section] = _absolute(value, key, folder)
    if isinstance(endpoint := resolved.get("endpoint"), dict):
        resolved["endpoint"] = _absolute_files(endpoint, folder)
    return resolved


def _absolute_files(endpoint: Raw, folder: Path) -> Raw:
    files = {key: endpoint[key] for key in _FILE_KEYS if isinstance(endpoint.get(key), str)}
    plain = {key: value for key, value in files.items() if "://" not in value}
    there = {k: os.path.abspath(folder / expand_home(v)) for k, v in plain.items()}
    return {**endpoint, **there}


def _absolute(section: Any, key: str, folder: Path) -> Any:
    if not isinstance(section, dict) or not isinstance(section.get(key), str):
        return section
    if section.get("kind") == "judge" and key == "model":
        return section  # a name at an endpoint
    value = section[key]
    if "://" in value:
        return section
    path = folder / expand_home(value)
    _check_length(path, value)
    if HUB_ID.match(value) and not os.path.exists(path):
        return section
    return {**section, key: os.path.realpath(path)}


def _check_length(path: Path, given: str) -> None:
    """A name that no file can have ends in an error wherever it is looked for."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadInputError(
                f"{_shown(given)} has {len(given):,} characters, too many for a path; correct it."
            ) from None


def _first_mistake(error: ValidationError, raw: Raw) -> str:
    mistake = min(error.errors(), key=_is_less_telling)
    loc, where = mistake["loc"], _place(mistake["loc"], raw)
    match mistake["type"]:
        case "extra_forbidden" | "invalid_key":
            return _unknown_key(loc, _place(loc[:-1], raw) or "the recipe")
        case "missing":
            return f"{f'{where}.{loc[-1]}' if where else loc[-1]} is missing; add it."
        case "value_error":
            sentence = f"{mistake['ctx']['error']!s}."
            return f"{where}: {sentence}" if where else sentence
    return f"{where} is {_shown(mistake['input'])}; it should {_expected(mistake)}."


def _is_less_telling(mistake: ErrorDetails) -> tuple[bool, bool]:
    """A misspelt key explains most; keys with values that are no true or false explain nothing."""
    is_other_branch = mistake["type"] == "bool_type" and isinstance(mistake["input"], dict)
    return mistake["type"] != "extra_forbidden", is_other_branch


def _place(loc: tuple[int | str, ...], raw: Any) -> str:
    """The keys that lead to a mistake, as far as the recipe has them; of a list's item its name."""
    path = []
    for part in loc:
        if isinstance(raw, list) and isinstance(part, int):
            raw = raw[part]
            name = raw.get("name") if isinstance(raw, dict) else None
            path.append(_shown_key(name if isinstance(name, str) else part))
        elif isinstance(raw, dict) and part in raw:
            raw = raw[part]
            path.append(_shown_key(part))
    return ".".join(path)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _shown_key(key: Any) -> str:
    """A key as it stands; one that would hardly be seen as Python writes it."""
    text = str(key)
    return text if text.isprintable() and text.strip() else repr(text)


def _expected(mistake: ErrorDetails) -> str:
    """What a value should be, from pydantic's words where they are a recipe's."""
    kind = _KINDS.get(mistake["type"])
    if kind == "text" and not isinstance(mistake["input"], list | dict):
        return "be text: put it in quotes"
    if kind:
        return f"be {kind}"
    return mistake["msg"].partition(" should ")[2].partition(" after ")[0]


def _unknown_key(loc: tuple[str | int, ...], where: str) -> str:
    *parents, key = loc
    section = _section_at(Recipe, parents)
    known = sorted(section.model_fields) if section else []
    close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.4)
    advice = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}."
    return f"{where} has no key {_shown_key(key)}; {advice}"


def _section_at(model: type[BaseModel], path: list[str | int]) -> type[BaseModel] | None:
    for part in path:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        found = _models_in(model.model_fields[part].annotation)
        if not found:
            return None
        model = found[0]
    return model


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if get_origin(annotation) in (Union, UnionType, tuple, dict, list):
        return [m for arg in get_args(annotation) for m in _models_in(arg)]
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return [annotation] if is_model else []
