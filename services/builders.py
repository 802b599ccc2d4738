"""The application builders that a Serve config file names, one application of a recipe each.

They run on the cluster before its workers are there, so a recipe says itself where its models run.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from ray import serve

from fusion.errors import BadInputError
from fusion.recipe import Recipe
from fusion.recipe_file import load_recipe
from services.gateway.ingress import gateway_application
from services.reward import reward_application
from services.source import Served, source_application


class Arguments(BaseModel):
    """What a Serve config gives a builder under `args`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Path = Field(description="The recipe's path, as every node sees it.")
    parameters: dict[str, str] = Field({}, description="Values for the recipe's ${NAME}.")
    threads: PositiveInt = Field(4, description="Threads of a model that runs on CPU.")


class SourceArguments(Arguments):
    """The same for one source."""

    source: str = Field(description="The name of the source in the recipe.")


def source(arguments: SourceArguments) -> serve.Application:
    """The application of one source.

    Raises:
        BadInputError: the recipe has no such source, or does not say where its models run.
    """
    recipe = _load(arguments)
    models = {s.name: s for s in recipe.model_sources}
    if arguments.source not in models:
        raise BadInputError(
            f"{arguments.recipe} has no source {arguments.source} to serve; "
            f"name one of {', '.join(models)}."
        )
    served = Served.of(models[arguments.source])
    return source_application(served, on_cpu=_on_cpu(recipe), threads=arguments.threads)


def reward(arguments: Arguments) -> serve.Application:
    """The application of the reward model that ranks answers.

    Raises:
        BadInputError: the recipe has none, or does not say where its models run.
    """
    recipe = _load(arguments)
    if recipe.ranking is None or not recipe.ranking.served_model:
        raise BadInputError(
            f"{arguments.recipe} has no reward model to serve; remove its application from the "
            "Serve config."
        )
    return reward_application(recipe.ranking, on_cpu=_on_cpu(recipe), threads=arguments.threads)


def gateway(arguments: Arguments) -> serve.Application:
    """The application of the endpoint over the recipe's sources.

    Raises:
        BadInputError: nobody would be asked for a key, and Serve listens to others here.
    """
    recipe = _load(arguments)
    if recipe.endpoint.keys is None:
        raise BadInputError(
            f"{arguments.recipe} has no endpoint.keys, and on a cluster others reach the endpoint; "
            "set it to a file made by crucible keys create."
        )
    return gateway_application(recipe)


def _load(arguments: Arguments) -> Recipe:
    return load_recipe(arguments.recipe, arguments.parameters)


def _on_cpu(recipe: Recipe) -> bool:
    if recipe.cluster.accelerator == "auto":
        raise BadInputError(
            "cluster.accelerator is auto, and a Serve config is read before the workers are there; "
            "set it to cpu or gpu in the recipe."
        )
    return recipe.cluster.accelerator == "cpu"
