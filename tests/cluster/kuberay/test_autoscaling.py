"""Ray's own autoscaler reads the clusters, and at their full size what is deployed has a place."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._common.utils import import_attr
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

from tests.cluster.kuberay.rendered import (
    OVERLAYS,
    Object,
    cluster_specs,
    only,
    overlay,
    recipe_file,
)

Amounts = dict[str, float]
ALL = pytest.mark.parametrize("name", OVERLAYS)


def _node_types(spec: Object) -> dict[str, Any]:
    cluster = {"metadata": {"name": "any", "namespace": "crucible"}, "spec": spec}
    return _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]


@ALL
def test_the_head_takes_no_work_and_the_sandbox_only_its_own(name):
    for cluster, spec in cluster_specs(overlay(name)).items():
        types = _node_types(spec)
        assert types["headgroup"]["resources"]["CPU"] == 0
        assert ("sandbox" in types) == (cluster != "endpoint")
        if "sandbox" in types:
            resources = types["sandbox"]["resources"]
            assert (resources["CPU"], resources["sandbox"]) == (0, 8)
            assert not any("sandbox" in t["resources"] for n, t in types.items() if n != "sandbox")


@ALL
def test_groups_named_after_a_kind_of_gpu_have_eight_of_them(name):
    for spec in cluster_specs(overlay(name)).values():
        gpus = {n: t["resources"].get("GPU", 0) for n, t in _node_types(spec).items()}
        assert {n: count for n, count in gpus.items() if count} == (
            {} if name == "kind" else {"h100": 8}
        )


def _bundles(name: str, folder: Path) -> list[Amounts]:
    """What each process of the endpoint's applications asks for, the largest first."""
    recipe = recipe_file(overlay(name), folder)
    config = yaml.safe_load(only(overlay(name), "RayService")["spec"]["serveConfigV2"])
    asked: list[Amounts] = []
    for application in config["applications"]:
        arguments = {**application["args"], "recipe": str(recipe)}
        builder = import_attr(application["import_path"])
        deployment = call_user_app_builder_with_args_if_necessary(
            builder, arguments
        )._bound_deployment
        replica = deployment._replica_config
        options = replica.ray_actor_options
        own = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0)}
        asked += (replica.placement_group_bundles or [own]) * (deployment.num_replicas or 1)
    return sorted(asked, key=lambda a: (a.get("GPU", 0), a["CPU"]), reverse=True)


def _place(bundle: Amounts, free: list[Amounts]) -> bool:
    for node in free:
        if all(node.get(kind, 0) >= amount for kind, amount in bundle.items()):
            for kind, amount in bundle.items():
                node[kind] = node.get(kind, 0) - amount
            return True
    return False


@ALL
def test_everything_that_the_endpoint_deploys_has_a_place_at_full_size(name, tmp_path):
    types = _node_types(cluster_specs(overlay(name))["endpoint"])
    free = [dict(t["resources"]) for t in types.values() for _ in range(t["max_workers"])]
    left_over = [bundle for bundle in _bundles(name, tmp_path) if not _place(bundle, free)]
    assert not left_over


@ALL
def test_a_run_has_a_sandbox_and_what_its_engines_run_on_when_it_starts(name):
    types = _node_types(cluster_specs(overlay(name))["run"])
    assert types["sandbox"]["min_workers"] >= 1
    assert types["cpu" if name == "kind" else "h100"]["min_workers"] >= 1
