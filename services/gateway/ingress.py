"""The endpoint as an application of Ray Serve, as a Serve config file deploys it."""

from ray import serve
from starlette.types import ASGIApp

from fusion.errors import BadInputError
from fusion.recipe import Recipe, Source
from fusion.run import Run

# Requests that Serve lets in at once; what each may do is bounded by keys and by source.
REQUESTS_AT_ONCE = 2_000


@serve.ingress()
class Gateway:
    """Builds its app where it runs: what Serve freezes where a class is decorated is none of it."""

    def __init__(self, run: Run) -> None:
        check_alone(serve.get_replica_context().world_size)
        self._run = run

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app over the run's deployed sources."""
        from services.gateway.deployed import deployed_app

        return deployed_app(self._run)


def check_alone(replicas: int) -> None:
    """See that keys' limits and the metrics are counted in one place.

    Raises:
        BadInputError: there are more replicas of the gateway than one.
    """
    if replicas > 1:
        raise BadInputError(
            f"The gateway has {replicas} replicas, and each would grant every key its whole limit; "
            "set num_replicas of the deployment Gateway to 1."
        )


def exposed_sources(recipe: Recipe) -> list[Source]:
    """The sources that the endpoint of a recipe stands before."""
    wanted = recipe.endpoint.sources
    return [s for s in recipe.model_sources if wanted is None or s.name in wanted]


def exposed_reward(recipe: Recipe) -> str | None:
    """The name of the scorer that rates answers, None where the one that ranks is no model here."""
    name = recipe.selection.ranked_by
    reward = recipe.rewards.get(name)
    return name if reward and reward.served_model else None


def gateway_application(recipe: Recipe) -> serve.Application:
    """The Serve application of the endpoint over the sources of a recipe."""
    # a relative storage is relative to this process, which the replica does not share
    run = Run(recipe.model_copy(update={"storage": str(Run(recipe).storage)}))
    deployment = serve.deployment(
        Gateway,
        name="Gateway",
        max_ongoing_requests=REQUESTS_AT_ONCE,
        graceful_shutdown_timeout_s=5,
        ray_actor_options={"num_cpus": 0.5},
    )
    return deployment.bind(run)
