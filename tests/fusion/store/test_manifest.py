"""Manifest: balance of the counts, round trip, and whether a stage is done."""

from datetime import UTC, datetime

import pytest

from fusion.errors import CrucibleError
from fusion.store import Counts, Location, Manifest, is_current

BALANCED = Counts(
    entered=100,
    results=90,
    dropped={"margin": 6, "length": 1},
    quarantined={"timeout": 3},
    unit="answers",
)


def manifest(counts: Counts = BALANCED) -> Manifest:
    return Manifest(
        stage="sample",
        recipe_hash="abc",
        inputs={"prompts": "f1", "source": "f2"},
        code_version="1.0",
        counts=counts,
        tokens={"prompt": 1000, "completion": 9000},
        seconds=12.5,
        yields={"math": {"qwen": 0.75}},
        started_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        finished_at=datetime(2026, 1, 2, 3, 5, tzinfo=UTC),
        extra={"wave": 1},
    )


def test_manifest_comes_back_as_it_was_written(storage: Location) -> None:
    place = storage / "manifests" / "sample.json"
    assert Manifest.read(place) is None
    manifest().write(place)
    assert Manifest.read(place) == manifest()


@pytest.mark.parametrize(("results", "left"), [(89, 99), (91, 101)])
def test_mismatch_refuses_with_the_numbers_and_writes_nothing(
    storage: Location, results: int, left: int
) -> None:
    place = storage / "sample.json"
    lost = manifest(BALANCED.model_copy(update={"results": results}))
    with pytest.raises(CrucibleError) as refusal:
        lost.write(place)
    assert f"stage sample: 100 answers entered but {left} left it" in str(refusal.value)
    assert f"({results} results + 7 (length 1, margin 6) dropped + 3 (timeout 3)" in str(
        refusal.value
    )
    assert not place.exists()


def test_mismatch_on_disk_refuses_too(storage: Location) -> None:
    place = storage / "sample.json"
    place.write_text(manifest().model_dump_json().replace('"results":90', '"results":80'))
    with pytest.raises(CrucibleError, match="100 answers entered but 90 left"):
        Manifest.read(place)


def test_file_that_is_no_manifest_is_named(storage: Location) -> None:
    place = storage / "sample.json"
    place.write_text('{"stage": "sample"')
    with pytest.raises(CrucibleError, match=r"sample\.json.* is not a manifest .*delete it"):
        Manifest.read(place)


@pytest.mark.parametrize(
    ("inputs", "current"),
    [
        ({"source": "f2", "prompts": "f1"}, True),
        ({"prompts": "f1", "source": "changed"}, False),
        ({"prompts": "f1"}, False),
        ({"prompts": "f1", "source": "f2", "more": "f3"}, False),
    ],
)
def test_stage_is_current_for_exactly_the_same_inputs(inputs: dict, current: bool) -> None:
    assert is_current(manifest(), inputs) is current
    assert not is_current(None, inputs)
