"""What Kubernetes and KubeRay accept: their own schemas, closed to unknown fields."""

import gzip
import os
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from kubernetes_validate.utils import latest_version

from tests.cluster.kuberay.rendered import ROOT, Object

CRDS = Path(os.environ.get("CRUCIBLE_KUBERAY_CRDS", ROOT.parent / "shared" / "kuberay-crds"))


TEXT = {"type": "string"}


def _object(required: tuple[str, ...], **properties: object) -> dict[str, object]:
    closed = {"type": "object", "additionalProperties": False}
    return {**closed, "required": list(required), "properties": properties}


# Of the Prometheus operator's PodMonitor (monitoring.coreos.com/v1, its API reference) the fields
# that are used here.
POD_MONITOR = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PodMonitor"},
    metadata={"type": "object"},
    spec=_object(
        ("selector", "podMetricsEndpoints"),
        selector=_object((), matchLabels={"type": "object", "additionalProperties": TEXT}),
        podTargetLabels={"type": "array", "items": TEXT},
        podMetricsEndpoints={
            "type": "array",
            "items": _object(
                ("port",),  # the operator asks for it or portNumber
                port=TEXT,
                path=TEXT,
                interval=TEXT | {"pattern": "^[0-9]+(ms|s|m|h)$"},
                authorization=_object(
                    (), credentials=_object(("key",), name=TEXT, key=TEXT), type=TEXT
                ),
            ),
        },
    ),
)


def faults(item: Object) -> list[str]:
    """What is wrong with an object; skips the test where the schemas of its kind are missing."""
    if lacking := {"apiVersion", "kind", "metadata"} - set(item):
        return [f"lacks {', '.join(lacking)}"]
    group, _, version = item["apiVersion"].partition("/")
    if group not in ("ray.io", "monitoring.coreos.com"):
        return _core_faults(item)
    by_operator = group == "monitoring.coreos.com"
    validator = (
        Draft202012Validator(POD_MONITOR) if by_operator else _ray_validator(item["kind"], version)
    )
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(item)]
    # A custom resource's schema leaves the metadata open; they are those of every object.
    core = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": item["metadata"]}
    return errors + _core_faults(core)


def _core_faults(item: Object) -> list[str]:
    try:
        kubernetes_validate.validate(item, latest_version(), strict=True)
    except kubernetes_validate.utils.ValidationError as error:
        return [error.message]
    return []


@cache
def _ray_validator(kind: str, version: str) -> Draft202012Validator:
    path = CRDS / f"ray.io_{kind.lower()}s.yaml.gz"
    if not path.is_file():
        pytest.skip(f"KubeRay's schemas are not at {CRDS}; set CRUCIBLE_KUBERAY_CRDS")
    with gzip.open(path) as file:
        versions = yaml.load(file, Loader=yaml.CSafeLoader)["spec"]["versions"]  # megabytes
    schema = next(v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == version)
    return Draft202012Validator(_closed(schema, is_root=True))


def _closed(schema: Any, *, is_root: bool = False) -> Any:
    """The schema in JSON Schema's own words, and with no room for a key that it does not name."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    for key in ("items", "additionalProperties", "allOf", "anyOf", "oneOf", "not"):
        if key in closed:
            closed[key] = _closed(closed[key])
    if "properties" in closed:
        closed["properties"] = {k: _closed(v) for k, v in closed["properties"].items()}
        closed.setdefault("additionalProperties", False)
    if is_root:
        closed["properties"]["metadata"] = {"type": "object"}
    return closed
