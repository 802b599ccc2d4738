"""Builders of small recipes over JSONL files."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from fusion.recipe import Recipe

WriteLines = Callable[[str, Iterable[Any]], str]
MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def write_lines(tmp_path: Path) -> WriteLines:
    """Write records (or texts as they are) as lines of a file; its path."""

    def write(name: str, records: Iterable[Any]) -> str:
        lines = [line if isinstance(line, str) else json.dumps(line) for line in records]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return str(tmp_path / name)

    return write


@pytest.fixture
def make_recipe(tmp_path: Path) -> MakeRecipe:
    """A recipe of these data sets, each a mapping over defaults."""

    def make(*datasets: dict[str, Any], **keys: Any) -> Recipe:
        defaults = {"domain": "math", "fields": {"prompt": "q"}}
        return Recipe.model_validate(
            {
                "name": "small",
                "storage": str(tmp_path / "runs"),
                "target": {"model": "owner/target", "revision": "main"},
                "sources": [{"name": "one", "model": "owner/one", "revision": "main"}],
                "datasets": [{**defaults, **dataset} for dataset in datasets],
                **keys,
            }
        )

    return make
