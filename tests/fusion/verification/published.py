"""The published evaluation data that stands beside the repository, or where CRUCIBLE_DATA says."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

_REPOSITORY = Path(__file__).resolve().parents[3]


def published_rows(name: str) -> list[dict[str, Any]]:
    """The rows of a published JSON-lines file; the test is skipped, loudly, where it is missing."""
    folder = Path(os.environ.get("CRUCIBLE_DATA", _REPOSITORY.parent / "shared" / "data"))
    path = folder / name
    if not path.is_file():
        pytest.skip(f"{path} is missing: set CRUCIBLE_DATA to the folder of the published data")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
