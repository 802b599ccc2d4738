"""What cards are made of: front matter, tables, and names that give no local path away."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fusion.recipe_file import HUB_ID


def with_front_matter(facts: Mapping[str, Any], body: str) -> str:
    """A card: YAML for the hub, then Markdown for people; facts without a value are left out."""
    given = {name: value for name, value in facts.items() if value}
    text = yaml.safe_dump(given, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n\n{body}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def listed(values: Mapping[str, str]) -> str:
    """A list of names and what they are."""
    return "\n".join(f"- {name}: `{value}`" for name, value in values.items())


def published_name(place: str, revision: str | None) -> str:
    """A hub id with its revision; of a local path the name alone."""
    is_local = "://" not in place and (Path(place).is_absolute() or not HUB_ID.match(place))
    name = Path(place).name if is_local else place
    return f"{name}@{revision}" if revision else name


def yes(flag: bool) -> str:
    """A flag in words."""
    return "yes" if flag else "no"
