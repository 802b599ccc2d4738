"""The manifest of a stage: what it did, written last, so that its being there means done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, JsonValue, NonNegativeFloat, NonNegativeInt
from pydantic import ValidationError as PydanticError

from fusion.errors import CrucibleError
from fusion.store.location import Location


class Counts(BaseModel):
    """Where every row that entered went: a result, a drop by a named rule, or quarantine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entered: NonNegativeInt
    results: NonNegativeInt
    dropped: dict[str, NonNegativeInt] = {}
    """Rule -> rows."""
    quarantined: dict[str, NonNegativeInt] = {}
    """Reason -> rows."""
    unit: str = "rows"
    """What is counted, where it is not the table's rows: 'answers', 'prompts'."""

    @property
    def left(self) -> int:
        """How many came out in any way."""
        return self.results + sum(self.dropped.values()) + sum(self.quarantined.values())

    def check_balance(self, stage: str) -> None:
        """Hold entered = results + dropped + quarantined.

        Raises:
            CrucibleError: the sum differs.
        """
        if self.left == self.entered:
            return
        raise CrucibleError(
            f"stage {stage}: {self.entered} {self.unit} entered but {self.left} left it "
            f"({self.results} results + {_sum(self.dropped)} dropped + {_sum(self.quarantined)} "
            "quarantined); expected the two to be equal: nothing was marked as done, please "
            "report this with the stage's log"
        )


class Manifest(BaseModel):
    """One stage of one run, finished. The JSON on disk has these names and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    recipe_hash: str
    inputs: dict[str, str]
    """Name of an input -> its fingerprint."""
    code_version: str
    counts: Counts
    tokens: dict[str, NonNegativeInt] = {}
    """Kind of token (prompt, completion) -> how many."""
    seconds: NonNegativeFloat
    yields: dict[str, JsonValue] = {}
    """Shares by source, domain and so on, nested as the stage likes."""
    started_at: datetime
    finished_at: datetime
    extra: dict[str, JsonValue] = {}

    def write(self, location: Location) -> None:
        """Write it to the file `location` whole or not at all; the last act of a stage.

        Raises:
            CrucibleError: the counts do not balance; nothing is written.
        """
        self.counts.check_balance(self.stage)
        location.write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, location: Location) -> Self | None:
        """The manifest in the file `location`, None where the stage has not finished.

        Raises:
            CrucibleError: the file is not a manifest, or its counts do not balance.
        """
        try:
            manifest = cls.model_validate_json(location.read_bytes())
        except FileNotFoundError:
            return None
        except PydanticError as error:
            problem = error.errors()[0]
            raise CrucibleError(
                f"{location} is not a manifest ({problem['msg']} at {list(problem['loc'])}); "
                "expected the JSON a finished stage writes: delete it and the stage runs again"
            ) from error
        manifest.counts.check_balance(manifest.stage)
        return manifest


def is_current(manifest: Manifest | None, inputs: Mapping[str, str]) -> bool:
    """Whether a stage is done already for the same inputs (names and fingerprints)."""
    return manifest is not None and manifest.inputs == dict(inputs)


def add_counts(several: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of several counts by name, in the order of the names."""
    counts = list(several)
    names = sorted({name for each in counts for name in each})
    return {name: sum(each.get(name, 0) for each in counts) for name in names}


def _sum(counts: Mapping[str, int]) -> str:
    if not counts:
        return "0"
    details = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"{sum(counts.values())} ({details})"
