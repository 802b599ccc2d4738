"""`crucible serve` and `crucible ask`: the sources up behind the endpoint, and questions to it."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import httpx
import ray
from ray import serve
from rich.console import Console
from rich.table import Table

from cluster.connection import connected, usable
from fusion.errors import BadInputError, CrucibleError
from fusion.recipe import Recipe
from jobs.models import reward_applications, served_source, source_applications, waves_of
from services.applications import down, serving, start_serve
from services.gateway import GATEWAY_APPLICATION, gateway_application

TIMEOUT_S = 120.0


def serve_recipe(recipe: Recipe, console: Console) -> None:
    """Bring the recipe's sources, reward model and endpoint up, and stay until interrupted.

    Raises:
        DoesNotFitError: the sources of the endpoint do not fit together.
    """
    endpoint = recipe.endpoint
    wanted = endpoint.sources or [s.name for s in recipe.model_sources]
    served = [served_source(s) for s in recipe.model_sources if s.name in wanted]
    with connected() as there:
        holdings = usable(recipe, there)
        planned = waves_of(recipe, served, holdings)
        if len(planned.waves) > 1 or not planned.reward_stays:
            raise BadInputError(
                "The sources do not fit together; name fewer of them in endpoint.sources."
            )
        start_serve(host=endpoint.host, port=endpoint.port, http=True)
        console.print(f"starting {', '.join(s.name for s in served)}")
        applications = {
            **source_applications(recipe, chain(*planned.waves), holdings),
            **reward_applications(recipe, holdings),
        }
        with serving(applications):
            serve.run(gateway_application(recipe.name), name=GATEWAY_APPLICATION, route_prefix="/")
            console.print(f"listening on http://{endpoint.host}:{endpoint.port}", highlight=False)
            _wait_for_interrupt()
            console.print("the endpoint goes down")
            down([GATEWAY_APPLICATION])


def _wait_for_interrupt() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        while ray.is_initialized():
            time.sleep(1)


def ask_sources(recipe: Recipe, prompt: str) -> Table:
    """One answer of every source that is up, side by side.

    Raises:
        CrucibleError: no endpoint answers.
    """
    base = f"http://{recipe.endpoint.host}:{recipe.endpoint.port}/v1"
    with httpx.Client(base_url=base, timeout=TIMEOUT_S) as client:
        try:
            names = [model["id"] for model in client.get("/models").json()["data"]]
        except httpx.HTTPError as error:
            raise CrucibleError(
                f"No endpoint answers at {base} ({type(error).__name__}); "
                "start one with `crucible serve`."
            ) from error
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(lambda name: _ask(client, recipe, name, prompt), names))
    table = Table(show_lines=True)
    for name in names:
        table.add_column(name)
    table.add_row(*answers)
    return table


def _ask(client: httpx.Client, recipe: Recipe, name: str, prompt: str) -> str:
    source = next((s for s in recipe.sources if s.name == name), None)
    sampling = source.sampling if source else None
    body = {"model": name, "messages": [{"role": "user", "content": prompt}]}
    if sampling:
        body |= sampling.model_dump(include={"temperature", "top_p", "max_tokens"})
    reply = client.post("/chat/completions", json=body)
    if reply.status_code != httpx.codes.OK:
        return f"({reply.status_code}: {reply.text[:200]})"
    return str(reply.json()["choices"][0]["message"]["content"])
