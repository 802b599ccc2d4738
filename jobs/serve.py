"""`crucible serve`: the sources, the reward model and the endpoint up, until interrupted."""

import contextlib
import time
from itertools import chain
from pathlib import Path

import ray
from ray import serve
from rich.console import Console

from cluster.connection import connected, usable
from fusion.errors import BadInputError
from fusion.keys import read_keyring
from fusion.recipe import Endpoint, Recipe
from fusion.store import Location
from jobs.models import reward_applications, source_applications, waves_of
from services.applications import down, serving, start_serve
from services.gateway.ingress import GATEWAY_APPLICATION, exposed_sources, gateway_application
from services.source import Served


def serve_recipe(recipe: Recipe, console: Console) -> None:
    """Bring the recipe's sources, reward model and endpoint up, and stay until interrupted.

    Raises:
        BadInputError: a file of the endpoint cannot be read.
        DoesNotFitError: the sources of the endpoint do not fit together.
    """
    endpoint = recipe.endpoint
    told = check_endpoint(endpoint)
    served = [Served.of(source) for source in exposed_sources(recipe)]
    with connected() as there:
        holdings = usable(recipe, there)
        asked = with_ranking_alone(recipe)
        planned = waves_of(asked, served, holdings)
        if len(planned.waves) > 1 or not planned.reward_stays:
            raise BadInputError(
                "The sources do not fit together; name fewer of them in endpoint.sources."
            )
        start_serve(endpoint)
        console.print(f"starting {', '.join(s.name for s in served)}")
        applications = {
            **source_applications(asked, chain(*planned.waves), holdings),
            **reward_applications(asked, holdings),
        }
        with serving(applications):
            serve.run(gateway_application(recipe), name=GATEWAY_APPLICATION, route_prefix="/")
            console.print(f"listening on {endpoint.address}; {told}", highlight=False)
            _wait_for_interrupt()
            console.print("the endpoint goes down")
            down([GATEWAY_APPLICATION])


def with_ranking_alone(recipe: Recipe) -> Recipe:
    """The recipe without the scorers that do not rank: the endpoint asks none of them."""
    ranks = recipe.selection.ranked_by
    reward = recipe.reward if ranks == "reward" else None
    scorers = {name: scorer for name, scorer in recipe.scorers.items() if name == ranks}
    return recipe.model_copy(update={"reward": reward, "scorers": scorers})


def check_endpoint(endpoint: Endpoint) -> str:
    """Read the files that an endpoint needs, and say who may ask.

    Raises:
        BadInputError: one of them cannot be read.
    """
    for name in ("tls_certificate", "tls_key"):
        file = getattr(endpoint, name)
        if file and not Path(file).is_file():
            raise BadInputError(f"endpoint.{name} is {file}, and there is no such file.")
    if endpoint.keys is None:
        return "without keys, on loopback only: whoever is on this machine may ask"
    active = [key for key in read_keyring(Location.of(endpoint.keys)).keys if not key.revoked_at]
    if not active:
        return f"nobody has a key: make one with crucible keys create NAME --keys {endpoint.keys}"
    return f"{len(active)} keys may ask"


def _wait_for_interrupt() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        while ray.is_initialized():
            time.sleep(1)
