"""The manifests as `kubectl kustomize` renders them, and the parts that several tests look at."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
KUBERAY = ROOT / "cluster" / "kuberay"
OVERLAYS = sorted(path.name for path in (KUBERAY / "overlays").iterdir())
Object = dict[str, Any]
CLUSTER_SPECS = {
    "RayService": ("spec", "rayClusterConfig"),
    "RayJob": ("spec", "rayClusterSpec"),
    "RayCluster": ("spec",),
}


@cache
def render(folder: Path) -> list[Object]:
    """The objects of a kustomization; skips the test where there is no kubectl."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH: the manifests were not rendered, and not checked")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [
        document for document in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if document
    ]


def overlay(name: str) -> list[Object]:
    """The objects of an overlay."""
    return render(KUBERAY / "overlays" / name)


def with_component(folder: Path, component: str) -> list[Object]:
    """The overlay h100 with one more component, as a user would add it."""
    (folder / "kuberay").symlink_to(KUBERAY)
    own = folder / "own"
    own.mkdir()
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../kuberay/overlays/h100"],
        "components": [f"../kuberay/components/{component}"],
    }
    (own / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(own)


def all_objects() -> list[tuple[str, Object]]:
    """Every object of every overlay, with the overlay's name."""
    return [(name, item) for name in OVERLAYS for item in overlay(name)]


def only(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The one object of a kind, or of a kind and name."""
    found = [
        item
        for item in objects
        if item["kind"] == kind and name in (None, item["metadata"]["name"])
    ]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}"
    return found[0]


def cluster_specs(objects: list[Object]) -> dict[str, Object]:
    """The Ray cluster of each object that has one, by the object's name."""
    specs = {}
    for item in objects:
        if item["kind"] in CLUSTER_SPECS:
            spec = item
            for key in CLUSTER_SPECS[item["kind"]]:
                spec = spec[key]
            specs[item["metadata"]["name"]] = spec
    return specs


def groups(spec: Object) -> list[Object]:
    """The head group and the worker groups of a Ray cluster."""
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pod_templates(objects: list[Object]) -> Iterator[Object]:
    """Every pod template: Ray's nodes, the job's submitter, a deployment's."""
    for item in objects:
        if item["kind"] == "Deployment":
            yield item["spec"]["template"]
        if item["kind"] == "RayJob":
            yield item["spec"]["submitterPodTemplate"]
    for spec in cluster_specs(objects).values():
        yield from (group["template"] for group in groups(spec))


def recipe_file(objects: list[Object], folder: Path) -> Path:
    """The recipe of an overlay as a file here, the image's paths turned into the repository's."""
    text = only(objects, "ConfigMap", "crucible-recipe")["data"]["recipe.yaml"]
    path = folder / "recipe.yaml"
    path.write_text(text.replace("/crucible/", f"{ROOT}/"))
    return path
