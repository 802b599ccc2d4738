"""Under which licences models and data sets stand, as far as it can be told without a network."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import yaml
from huggingface_hub import try_to_load_from_cache

from fusion.recipe_file import HUB_ID

UNKNOWN = "not stated"


def licence(
    stated: str | None,
    place: str,
    revision: str | None,
    kind: Literal["model", "dataset"] = "model",
) -> str:
    """What the recipe states, else what the own card says, where that is on this machine."""
    if stated:
        return stated
    card = _card(place.removeprefix("hf://"), revision, kind)
    return (_licence_in(card) if card else None) or UNKNOWN


def common_licence(licences: Iterable[str]) -> str | None:
    """The one licence that all stand under; None where they differ or one is not known."""
    different = set(licences)
    only = different.pop() if len(different) == 1 else UNKNOWN
    return None if only == UNKNOWN else only


def _card(place: str, revision: str | None, kind: str) -> Path | None:
    folder = Path(place) if Path(place).is_dir() else Path(place).parent
    if Path(place).exists():
        return folder / "README.md"
    if not HUB_ID.match(place):
        return None
    found = try_to_load_from_cache(place, "README.md", revision=revision, repo_type=kind)
    return Path(found) if isinstance(found, str) else None


def _licence_in(card: Path) -> str | None:
    """The licence that a card's front matter names."""
    if not card.is_file():
        return None
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    try:
        facts = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError:
        return None
    found = facts.get("license") if isinstance(facts, dict) else None
    return found if isinstance(found, str) else None
