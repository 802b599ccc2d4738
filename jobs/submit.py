"""`crucible submit`: a run as a job of a cluster, followed to its end."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.job import JobServer
from cluster.package import RECIPE_FILE, package
from cluster.settings import job_server_address, ray_token
from fusion.errors import BadInputError
from fusion.identity import content_hash
from fusion.recipe import Recipe

ACTIONS = ("status", "logs", "stop")
_MILLISECONDS = 1000


def job_server(address: str | None) -> JobServer:
    """The job server at an address, or at that of the environment.

    Raises:
        BadInputError: there is none, nobody answers, or the token is wrong.
    """
    known = job_server_address(address)
    if known is None:
        raise BadInputError(
            "No cluster is named; give --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS."
        )
    return JobServer(known, ray_token())


def submit_recipe(
    recipe: Recipe,
    server: JobServer,
    *,
    stages: Sequence[str],
    shared: Sequence[Path],
    name: str | None,
) -> str:
    """Start the recipe's run as a job, unless it runs already; the name of the job.

    Without a name the job's follows from recipe, code, files and stages: the same command again
    finds the same job.
    """
    packed = package(recipe, shared=tuple(path.resolve() for path in shared))
    options = [option for stage in stages for option in ("--stage", stage)]
    digest = content_hash([packed.digest, list(stages)], length=len(packed.digest))
    entrypoint = shlex.join(["python", "-m", "jobs", "run", RECIPE_FILE, *options])
    env = {"PYTHONUNBUFFERED": "1"}
    return server.submit(name or f"{recipe.name}-{digest}", entrypoint, packed, env)


def act(server: JobServer, action: str, name: str | None, console: Console) -> None:
    """status, logs or stop.

    Raises:
        BadInputError: no job is named where one is needed, or the cluster does not know it.
    """
    if action == "status":
        console.print(_table(server, name))
        return
    if name is None:
        raise BadInputError(f"submit {action} needs the name of a job; submit status lists them.")
    if action == "logs":
        console.print(server.logs(name), markup=False, highlight=False, end="")
    else:
        server.stop(name)
        console.print(f"{name} is stopping")


def _table(server: JobServer, name: str | None) -> Table:
    table = Table("job", "state", "seconds", "message")
    for job in [server.job(name)] if name else server.jobs():
        seconds = ""
        if job.start_time and job.end_time:
            seconds = f"{(job.end_time - job.start_time) / _MILLISECONDS:.0f}"
        table.add_row(job.submission_id, str(job.status.value), seconds, job.message or "")
    return table
