"""The endpoint's Serve config: Ray accepts it, and its import paths build the applications."""

import inspect
from pathlib import Path

import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from fusion.errors import BadInputError
from fusion.recipe import Recipe
from fusion.recipe_file import load_recipe
from services.applications import reward_application_name, source_application_name
from services.builders import Arguments, SourceArguments, gateway, reward, source
from tests.cluster.kuberay.rendered import OVERLAYS, ROOT, Object, only, overlay, recipe_file

REHEARSAL = ROOT / "rehearsal" / "recipe.yaml"


def _config(name: str) -> Object:
    return yaml.safe_load(only(overlay(name), "RayService")["spec"]["serveConfigV2"])


def _expected_names(recipe: Recipe) -> set[str]:
    sources = recipe.endpoint.sources or [s.name for s in recipe.model_sources]
    served = {source_application_name(recipe.name, name) for name in sources}
    return {"gateway", reward_application_name(recipe.name), *served}


@pytest.mark.parametrize("name", OVERLAYS)
def test_config_meets_ray_s_schema_and_has_no_key_that_ray_would_pass_over(name):
    config = _config(name)
    ServeDeploySchema.model_validate(config)
    assert set(config) <= set(ServeDeploySchema.model_fields)
    assert set(config["http_options"]) <= set(HTTPOptionsSchema.model_fields)
    for application in config["applications"]:
        assert set(application) <= set(ServeApplicationSchema.model_fields)
        for deployment in application.get("deployments", []):
            assert set(deployment) <= set(DeploymentSchema.model_fields)


@pytest.mark.parametrize("name", OVERLAYS)
def test_applications_are_those_that_the_recipe_s_endpoint_names(name, tmp_path):
    recipe = load_recipe(recipe_file(overlay(name), tmp_path))
    names = [application["name"] for application in _config(name)["applications"]]
    assert len(names) == len(set(names))
    assert set(names) == _expected_names(recipe)


@pytest.mark.parametrize("name", OVERLAYS)
def test_import_paths_build_applications_that_have_the_deployments_named(name, tmp_path):
    recipe = recipe_file(overlay(name), tmp_path)
    for application in _config(name)["applications"]:
        arguments = {**application["args"], "recipe": str(recipe)}
        builder = import_attr(application["import_path"])
        built = call_user_app_builder_with_args_if_necessary(builder, arguments)
        named = {deployment["name"] for deployment in application.get("deployments", [])}
        assert named <= {built._bound_deployment.name}
        asked = application["args"].get("source")
        if asked is not None:
            loading = built._bound_deployment.init_args[0]["model_loading_config"]
            assert loading["model_id"] == asked


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_gateway_has_one_replica_so_that_no_key_has_its_limit_twice(name):
    (gateways,) = [a for a in _config(name)["applications"] if a["name"] == "gateway"]
    counts = [d.get("num_replicas", 1) for d in gateways.get("deployments", [])]
    assert set(counts) <= {1}


def test_only_the_gateway_is_reached_over_http():
    for name in OVERLAYS:
        routes = {a["name"]: a["route_prefix"] for a in _config(name)["applications"]}
        assert {name for name, route in routes.items() if route} == {"gateway"}


def test_sources_on_gpus_ask_for_as_many_as_the_recipe_says(tmp_path):
    recipe = recipe_file(overlay("h100"), tmp_path)
    built = source(SourceArguments(recipe=recipe, source="llama-3.1-70b"))
    bundles = built._bound_deployment._replica_config.placement_group_bundles
    assert [bundle["GPU"] for bundle in bundles] == [1, 1, 1, 1]


def test_a_builder_refuses_an_argument_it_does_not_know():
    with pytest.raises(ValueError, match="Extra inputs"):
        call_user_app_builder_with_args_if_necessary(
            source, {"recipe": str(REHEARSAL), "source": "llama", "sauce": "x"}
        )


def _rehearsal(folder: Path, **changes: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"extends": str(REHEARSAL), **changes}))
    return path


def test_a_source_that_the_recipe_lacks_is_refused_with_those_it_has(tmp_path):
    recipe = _rehearsal(tmp_path, cluster={"accelerator": "cpu"})
    with pytest.raises(BadInputError, match=r"no source llma to serve; name one of llama, gemma"):
        source(SourceArguments(recipe=recipe, source="llma"))


def test_a_recipe_that_leaves_the_accelerator_open_is_refused(tmp_path):
    recipe = _rehearsal(tmp_path)
    for build in (
        reward,
        lambda arguments: source(SourceArguments(**dict(arguments), source="llama")),
    ):
        with pytest.raises(BadInputError, match="set it to cpu or gpu"):
            build(Arguments(recipe=recipe))


@pytest.mark.parametrize("reward_section", [None, {"kind": "constant", "value": 1.0}])
def test_a_recipe_without_a_reward_model_has_no_application_for_it(tmp_path, reward_section):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump({**yaml.safe_load(REHEARSAL.read_text()), "reward": reward_section})
    )
    with pytest.raises(BadInputError, match="no reward model to serve"):
        reward(Arguments(recipe=recipe))


def test_a_gateway_that_asks_nobody_for_a_key_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="set it to a file made by crucible keys create"):
        gateway(Arguments(recipe=_rehearsal(tmp_path)))


def test_parameters_fill_the_recipe(tmp_path):
    recipe = _rehearsal(tmp_path, name="${name}", endpoint={"keys": "keys.json"})
    built = gateway(Arguments(recipe=recipe, parameters={"name": "mine"}))
    assert built._bound_deployment.init_args[0].recipe.name == "mine"


def test_builders_are_functions_of_one_typed_argument():
    for builder in (source, reward, gateway):
        (parameter,) = inspect.signature(builder).parameters.values()
        assert issubclass(parameter.annotation, Arguments)
