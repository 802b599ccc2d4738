"""The pages in docs/ say what the code does: every key, column, rule and command they name."""

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import polars as pl
import pyarrow as pa
import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fusion.cards import dataset_card
from fusion.recipe import DOMAIN_PRESETS, Domain, Name, Recipe
from fusion.recipe_file import load_recipe
from fusion.records import PROMPTS, TABLES
from fusion.run import STAGES, Run
from fusion.selection.answers import EXCLUSIONS
from fusion.selection.pairs import PAIR_RULES
from fusion.selection.split import PROMPT_RULES
from fusion.selection.yields import Yields
from fusion.store import Manifest
from fusion.verification.code.isolator import Ending
from fusion.verification.math_pool import Judgement
from jobs.__main__ import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
TARGET = {"model": "org/target", "revision": "v1"}
MODEL = {"name": "one", "model": "org/one", "revision": "v1"}
NO_DEFAULT = "required"
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Key:
    """What a page must say of a recipe's key; no help where the model has none."""

    type: str
    default: Any
    help: str | None


@dataclass(frozen=True)
class Row:
    """A row of a page's tables of keys."""

    type: str
    default: str
    help: str


def recipe_keys() -> dict[str, Key]:
    """Every key of a recipe by its path: `storage`, `sources[].name`, `selection.seed`."""
    return dict(_keys_of(Recipe, "", None))


def _keys_of(model: type[BaseModel], path: str, values: Any) -> Iterator[tuple[str, Key]]:
    for name, field in model.model_fields.items():
        inner = [section for kind in _parts(field.annotation) for section in _sections(*kind)]
        for suffix, section in inner:
            given = field.get_default() if values is None else getattr(values, name)
            given = given if isinstance(given, section) else None
            yield from _keys_of(section, f"{path}{name}{suffix}.", given)
        if not inner or _is_also_a_value(field.annotation):
            default = NO_DEFAULT if field.is_required() else field.get_default()
            given = default if values is None else getattr(values, name)
            words = type_words(field.annotation, field.metadata)
            yield f"{path}{name}", Key(words, given, field.description)


def _parts(annotation: Any) -> list[tuple[str, Any]]:
    """The members of a type, each with how a path shows that it is one of several."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return [part for argument in arguments for part in _parts(argument)]
    if origin is tuple:
        return [("[]", arguments[0])]
    if origin is dict:
        return [(".NAME", arguments[1])]
    return [("", annotation)]


def _sections(suffix: str, kind: Any) -> list[tuple[str, type[BaseModel]]]:
    return [(suffix, kind)] if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _is_also_a_value(annotation: Any) -> bool:
    return bool in get_args(annotation)


def type_words(annotation: Any, metadata: Any = ()) -> str:
    """A key's type in the words of the page."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        notes = [
            note
            for extra in arguments[1:]
            for note in (extra.metadata if isinstance(extra, FieldInfo) else [extra])
        ]
        return type_words(arguments[0], notes)
    if origin in (Union, types.UnionType):
        given = [argument for argument in arguments if argument is not type(None)]
        return " or ".join(type_words(argument, metadata) for argument in given)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {type_words(arguments[0])}"
    if origin is dict:
        return f"{type_words(arguments[0])} to {type_words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.__name__.lower()
    plain = {str: "text", int: "whole number", float: "number", bool: "true, false"}[annotation]
    return ", ".join(filter(None, [_named_text(metadata) or plain, _bounds(metadata)]))


def _named_text(metadata: Any) -> str | None:
    patterns = {getattr(note, "pattern", None) for note in metadata}
    named = {"name": Name, "domain": Domain}
    return next((w for w, kind in named.items() if patterns & {_pattern(kind)} - {None}), None)


def _pattern(kind: Any) -> str | None:
    notes = get_args(kind)[1].metadata
    return next((note.pattern for note in notes if hasattr(note, "pattern")), None)


def _bounds(metadata: Any) -> str:
    bounds = {
        side: getattr(note, side)
        for note in metadata
        for side in ("gt", "ge", "le")
        if hasattr(note, side)
    }
    lower = f"above {bounds['gt']}" if "gt" in bounds else str(bounds.get("ge", ""))
    if "le" not in bounds:
        return f"{lower} or more" if "ge" in bounds else lower
    return f"{lower}{',' if 'gt' in bounds else ''} to {bounds['le']}"


def page_rows(text: str) -> dict[str, Row]:
    """The rows of a page's tables of keys by the paths they are about.

    The heading of a table names its sections in code, none for the top level. The cell of a
    default is code; "`x` (`dpo`: `y`)" gives the section dpo another one.
    """
    rows: dict[str, Row] = {}
    sections = [""]
    for line in text.splitlines():
        if line.startswith("#"):
            sections = [f"{path}." for path in CODE.findall(line)] or [""]
        elif match := re.fullmatch(r"\| `(\w+)` \| (.+?) \| (.+?) \| (.+) \|", line):
            name, kind, default, help_ = match.groups()
            first, *others = CODE.findall(default) or [default]
            own = dict(zip(others[::2], others[1::2], strict=True))
            for section in sections:
                value = own.get(section.rstrip("."), first)
                rows[f"{section}{name}"] = Row(kind, value, help_)
    return rows


def line_for(path: str, key: Key) -> str:
    """The row that the page should have for a key."""
    name, default = path.rpartition(".")[2], key.default
    if default != NO_DEFAULT:
        plain = default.model_dump() if isinstance(default, BaseModel) else default
        dumped = yaml.safe_dump(_listed(plain), default_flow_style=True).splitlines()[0]
        default = f"`{dumped}`"
    return f"| `{name}` | {key.type} | {default} | {key.help or '...'} |"


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


KEYS = recipe_keys()


def _page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", _page(page), re.DOTALL)


def test_recipe_page_names_no_key_that_does_not_exist():
    reference = _page("recipe.md").partition("## Every key")[2]
    assert not set(page_rows(reference)) - set(KEYS)


@pytest.mark.parametrize("path", KEYS)
def test_recipe_page_says_of_every_key_what_the_model_says(path):
    key, advice = KEYS[path], f"docs/recipe.md needs {path}: {line_for(path, KEYS[path])}"
    row = page_rows(_page("recipe.md").partition("## Every key")[2]).get(path)
    assert row is not None, advice
    default = NO_DEFAULT if row.default == NO_DEFAULT else yaml.safe_load(row.default)
    assert (row.type, default) == (key.type, _listed(key.default)), advice
    assert key.help in (None, row.help.replace("`", "")), advice


def test_recipe_page_shows_every_domain_s_preset():
    for domain, policy in DOMAIN_PRESETS.items():
        cells = (domain, policy.judge, policy.pairs, policy.split, policy.margin)
        line = " | ".join(f"`{str(cell).lower()}`" for cell in cells)
        assert f"| {line} |" in _page("recipe.md")


def test_recipes_of_the_recipe_page_are_valid(tmp_path, monkeypatch):
    minimal, child = _blocks("recipe.md", "yaml")[:2]
    (tmp_path / "mine.yaml").write_text(minimal)
    (tmp_path / "larger.yaml").write_text(child)
    monkeypatch.chdir(tmp_path)
    base = load_recipe("mine.yaml")
    larger = load_recipe("larger.yaml", {"BUCKET": "b"})
    assert {s.name for s in base.sources} < {s.name for s in larger.sources}
    assert larger.storage == "s3://b/runs"


def test_data_page_has_every_column_of_every_table_in_order():
    columns: dict[str, list[str]] = {}
    section = _page("data.md").partition("## The tables")[2].partition("\n## ")[0]
    for line in section.splitlines():
        match line.split(" | "):
            case [first, names, _] if CODE.search(names):
                table = CODE.findall(first) or list(columns)[-1:]
                columns.setdefault(table[0], []).extend(CODE.findall(names))
    assert columns == {name: kind.schema.names for name, kind in TABLES.items()}


@pytest.mark.parametrize("rule", sorted({*EXCLUSIONS, *PAIR_RULES, *PROMPT_RULES}))
def test_data_page_names_every_rule_of_selection(rule):
    assert re.search(rf"^\| `{rule}` \|", _page("data.md"), re.M)


def test_data_page_names_every_reason_of_ingest_and_verification():
    sources = "".join(path.read_text() for path in (ROOT / "fusion/ingest").glob("*.py"))
    reasons = set(re.findall(r'(?:RowError|Malformed)\([^")]*"(\w+)"', sources))
    assert "missing_field" in reasons
    reasons |= {ending.value for ending in Ending}
    reasons |= {judgement.value for judgement in Judgement} - {Judgement.MALFORMED_GOLD.value}
    assert not reasons - set(CODE.findall(_page("data.md")))


def test_data_page_says_all_that_a_manifest_holds():
    assert not set(Manifest.model_fields) - set(CODE.findall(_page("data.md")))


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_stages_that_a_page_names_exist(page):
    known = {
        command.name or command.callback.__name__.replace("_", "-")
        for command in app.registered_commands
    }
    known |= {group.name for group in app.registered_groups}
    text = _page(page)
    named = re.findall(r"(?:^|`|-- )(?:crucible|python -m jobs) ([\w-]+)", text, re.M)
    assert not set(named) - known
    assert not set(re.findall(r"--stage ([a-z]+)", text)) - set(STAGES)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_links_to_exist(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", _page(page)):
        assert (DOCS / link).exists(), link


def _small_run(folder: Path) -> Run:
    """A run with two rows a table, as the snippets of the data page expect it."""
    dataset = {"name": "d", "path": "d.jsonl", "domain": "math", "fields": {"prompt": "q"}}
    run = Run(
        Recipe.model_validate(
            {
                "name": "mine",
                "storage": str(folder / "runs"),
                "target": TARGET,
                "sources": [MODEL],
                "datasets": [dataset],
            }
        )
    )
    for name in ("prompts", "responses", "scores"):
        run.shared(name).partition("key").append(_rows(TABLES[name].schema))
    for table in (run.sft(), run.preferences(), run.results()):
        table.append(_rows(table.schema))
    run.quarantine("sample").append(_rows(TABLES["quarantine"].schema))
    card = dataset_card(run.recipe, Yields((), (), {}), {"sft": 2, "preferences": 2}, {})
    (run.folder / "dataset" / "README.md").write_text(card)
    return run


def _rows(schema: pa.Schema) -> pa.Table:
    return pa.table({f.name: [_value(f.type, n) for n in (1, 2)] for f in schema}, schema=schema)


def _value(kind: pa.DataType, number: int) -> Any:
    if kind == PROMPTS.field("messages").type:
        return [{"role": "user", "content": str(number)}]
    if pa.types.is_list(kind):
        return [float(number)]
    return str(number) if pa.types.is_string(kind) else number


def _snippets() -> list[Any]:
    blocks = [block for block in _blocks("data.md", "python") if "trl" not in block]
    return [pytest.param(block, id=block.split()[1]) for block in blocks]


@pytest.mark.parametrize("snippet", _snippets())
def test_snippet_of_the_data_page_runs(snippet, tmp_path, monkeypatch):
    if "duckdb" in snippet:
        pytest.importorskip("duckdb")
    import datasets

    _small_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    printed: list[Any] = []
    show = {"print": lambda *values: printed.extend(values)}
    exec(compile(snippet, "docs/data.md", "exec"), show)
    assert printed
    for value in printed:
        assert not isinstance(value, pl.DataFrame) or value.height
