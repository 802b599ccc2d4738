"""The Kubernetes page says what the manifests hold, and its overlay renders."""

import re
from pathlib import Path

import pytest
import yaml

from tests.cluster.kuberay.rendered import (
    KUBERAY,
    OVERLAYS,
    ROOT,
    cluster_specs,
    only,
    overlay,
    pod_templates,
    render,
)
from tests.cluster.kuberay.schemas import faults

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def _secrets() -> set[str]:
    """The secrets that the manifests refer to."""
    text = yaml.safe_dump([item for name in OVERLAYS for item in overlay(name)])
    credentials = set(re.findall(r"credentials:\n\s+key: \S+\n\s+name: (\S+)", text))
    return (
        credentials
        | set(re.findall(r"secretName: (\S+)", text))
        | set(
            re.findall(
                r"(?:secretKeyRef|secretRef):\n(?:\s+(?:key|optional): .*\n)*\s+name: (\S+)", text
            )
        )
    )


def test_page_names_every_secret_that_the_manifests_refer_to():
    table = PAGE.partition("## Secrets")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)) == _secrets()


def test_page_names_every_overlay_and_component():
    named = set(re.findall(r"`overlays/([\w-]+)`", PAGE))
    assert named == set(OVERLAYS)
    components = {path.name for path in (KUBERAY / "components").iterdir()}
    assert components - {"kueue"} <= set(re.findall(r"`components/([\w-]+)`", PAGE))


def test_import_paths_of_the_page_are_those_of_the_manifests():
    table = set(re.findall(r"^\| `(services\.[\w.]+:\w+)`", PAGE, re.MULTILINE))
    config = "".join(
        only(overlay(name), "RayService")["spec"]["serveConfigV2"] for name in OVERLAYS
    )
    assert table == set(re.findall(r"import_path: (\S+)", config))


def test_runtime_class_of_the_page_is_the_one_that_the_sandbox_asks_for():
    (runtime,) = [block for block in BLOCKS if block["kind"] == "RuntimeClass"]
    assert not faults(runtime)
    for spec in (cluster_specs(overlay("h100"))[name] for name in ("run", "work")):
        asked = spec["workerGroupSpecs"][2]["template"]["spec"]["runtimeClassName"]
        assert asked == runtime["metadata"]["name"]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The page's overlay, beside a checkout."""
    (kustomization,) = [block for block in BLOCKS if block["kind"] == "Kustomization"]
    (tmp_path / "cluster").symlink_to(ROOT / "cluster")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    (folder / "recipe.yaml").write_text("name: mine\n")
    return folder


def test_overlay_of_the_page_renders_with_its_registry_and_recipe(own):
    rendered = render(own)
    images = {c["image"] for t in pod_templates(rendered) for c in t["spec"]["containers"]}
    assert images == {"my.registry/crucible:cpu", "my.registry/crucible:gpu"}
    assert only(rendered, "ConfigMap", "crucible-recipe")["data"]["recipe.yaml"] == "name: mine\n"
    for item in rendered:
        assert item["kind"] == "PodMonitor" or not faults(item)
