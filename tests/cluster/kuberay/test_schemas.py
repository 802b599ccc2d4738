"""Every rendered object is what its schema says, and one wrong letter is seen."""

import copy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.kuberay.rendered import (
    KUBERAY,
    OVERLAYS,
    Object,
    all_objects,
    overlay,
    render,
    with_component,
)
from tests.cluster.kuberay.schemas import faults

# Maps whose keys the user chooses; what may stand in them is checked where they are used.
FREE = {
    "annotations", "args", "data", "labels", "limits", "matchLabels", "nodeSelector",
    "rayStartParams", "requests", "resources", "selector",
}  # fmt: skip


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_of_an_overlay_meets_its_schema(name):
    for item in overlay(name):
        assert not faults(item), item["metadata"]["name"]


def test_every_object_with_the_pod_isolator_meets_its_schema(tmp_path):
    for item in with_component(tmp_path, "pod-isolator"):
        assert not faults(item), item["metadata"]["name"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_lies_in_the_namespace_and_says_what_it_belongs_to(name):
    for item in overlay(name):
        assert item["metadata"].get("namespace", "crucible") == "crucible"
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "crucible"
        assert labels["app.kubernetes.io/component"] in {"shared", "endpoint", "run", "work"}


def _keys(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            if key not in FREE:
                yield from _keys(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _keys(inner, (*path, index))


def _misspelt(item: Object, path: tuple[Any, ...]) -> Object:
    wrong = copy.deepcopy(item)
    inside = wrong
    for step in path[:-1]:
        inside = inside[step]
    inside[f"{path[-1]}x"] = inside.pop(path[-1])
    return wrong


def _kinds_and_keys() -> Iterator[tuple[Object, tuple[Any, ...]]]:
    """Each object's keys, one of each name at each place of a kind of object."""
    seen = set()
    for _, item in all_objects():
        for path in _keys(item):
            names = (item["kind"], *[step for step in path if isinstance(step, str)][-2:])
            if names not in seen:
                seen.add(names)
                yield item, path


def test_a_misspelt_key_is_seen_wherever_it_stands():
    unseen = [
        f"{item['kind']} {'.'.join(map(str, path))}"
        for item, path in _kinds_and_keys()
        if not faults(_misspelt(item, path))
    ]
    assert not unseen


@pytest.mark.parametrize("file", sorted(KUBERAY.rglob("kustomization.yaml")), ids=str)
def test_a_misspelt_key_of_a_kustomization_is_seen(file: Path, tmp_path: Path):
    render(KUBERAY / "base")  # skips where there is no kubectl
    wrong = {f"{k}x" if k not in ("kind", "apiVersion") else k: v for k, v in _read(file).items()}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(wrong))
    done = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "unknown field" in done.stderr


def _read(file: Path) -> Object:
    return yaml.safe_load(file.read_text())
