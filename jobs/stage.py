"""What every stage does alike: take the time, and write its manifest last."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fusion import __version__
from fusion.recipe_file import recipe_hash
from fusion.run import Run
from fusion.store import Counts, Manifest


class StageClock:
    """Started when a stage starts; it knows when and for how long."""

    def __init__(self) -> None:
        self.started_at = datetime.now(UTC)
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started


def write_manifest(
    run: Run,
    stage: str,
    clock: StageClock,
    *,
    seconds: float | None = None,
    inputs: Mapping[str, str],
    counts: Counts,
    tokens: Mapping[str, int] | None = None,
    yields: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Manifest:
    """The manifest of a finished stage, written; `seconds` where it was not busy all the time.

    Raises:
        CrucibleError: the counts do not balance.
    """
    manifest = Manifest(
        stage=stage,
        recipe_hash=recipe_hash(run.recipe),
        inputs=dict(inputs),
        code_version=__version__,
        counts=counts,
        tokens=dict(tokens or {}),
        seconds=clock.seconds if seconds is None else seconds,
        yields=dict(yields or {}),
        started_at=clock.started_at,
        finished_at=datetime.now(UTC),
        extra=dict(extra or {}),
    )
    manifest.write(run.manifest(stage))
    return manifest
