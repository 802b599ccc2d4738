"""`crucible serve`: the sources, the reward model and the endpoint up, until interrupted."""

import ssl
from contextlib import closing
from itertools import chain
from pathlib import Path

from rich.console import Console

from cluster.connection import connected, usable
from fusion.errors import BadInputError, one_line
from fusion.keys import read_keyring
from fusion.recipe import Endpoint, Recipe
from fusion.run import Run
from fusion.store import Location
from jobs.models import gpus_on_a_node, reward_applications, source_applications, waves_of
from services.applications import serving, start_serve
from services.gateway.deployed import deployed_app
from services.gateway.ingress import exposed_sources
from services.gateway.listening import bound, listen
from services.source import Served


def serve_recipe(recipe: Recipe, console: Console) -> None:
    """Bring the recipe's sources, reward model and endpoint up, and stay until interrupted.

    Raises:
        BadInputError: a file of the endpoint cannot be read, or it cannot listen at its address.
        DoesNotFitError: the sources of the endpoint do not fit together.
    """
    endpoint = recipe.endpoint
    told = check_endpoint(endpoint)
    served = [Served.of(source) for source in exposed_sources(recipe)]
    with closing(bound(endpoint)) as listener, connected() as there:
        holdings = usable(recipe, there)
        asked = with_ranking_alone(recipe)
        planned = waves_of(asked, served, holdings)
        if len(planned.waves) > 1 or not planned.reward_stays:
            raise BadInputError(
                "The sources do not fit together; name fewer of them in endpoint.sources."
            )
        start_serve()
        console.print(f"starting {', '.join(s.name for s in served)}")
        models = list(chain(*planned.waves))
        applications = {
            **source_applications(asked, models, holdings),
            **reward_applications(asked, holdings),
        }
        gpus, wait_s = gpus_on_a_node(asked, models), asked.failures.wait_s
        with serving(applications, gpus=gpus, wait_s=wait_s):
            console.print(f"listening on {endpoint.address}; {told}", highlight=False)
            listen(deployed_app(Run(recipe)), endpoint, listener)
            console.print("the endpoint goes down")


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
    if endpoint.tls_certificate and endpoint.tls_key:
        _check_certificate(endpoint.tls_certificate, endpoint.tls_key)
    if endpoint.keys is None:
        return "without keys, on loopback only: whoever is on this machine may ask"
    active = [key for key in read_keyring(Location.of(endpoint.keys)).keys if not key.revoked_at]
    if not active:
        return f"nobody has a key: make one with crucible keys create NAME --keys {endpoint.keys}"
    return f"{len(active)} keys may ask"


def _check_certificate(certificate: str, key: str) -> None:
    for name, file in (("tls_certificate", certificate), ("tls_key", key)):
        if not Path(file).is_file():
            raise BadInputError(
                f"endpoint.{name} is {file}, and there is no such file; correct it."
            )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:
        raise BadInputError(
            f"endpoint.tls_certificate {certificate} and endpoint.tls_key {key} cannot be used "
            f"({one_line(error)}); give a certificate and its own key, both in PEM."
        ) from None
