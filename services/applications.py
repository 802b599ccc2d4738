"""Up and down of a named set of Serve applications, several at once."""

import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatus

from fusion.errors import CrucibleError, one_line

# What a call raises whose replica dies.
DEATHS = (RayActorError, RayServeException)
# Serve takes a moment to see that a replica is gone; what is sent before it is lost as well.
PAUSE_AFTER_DEATH_S = 5.0
# As tracebacks have it, at the start of a line: the error's name alone, or with what it says.
_ERROR = re.compile(r"^[A-Za-z_][\w.]*(?::\s|$)", re.MULTILINE)
_OWN_ERROR = re.compile(r"^fusion\.errors\.\w+:\s")
_LONGEST_CAUSE = 1000


def source_application_name(run: str, source: str) -> str:
    """The name by which a run's source is found; runs on one cluster do not meet."""
    return f"{run}-source-{source}"


def reward_application_name(run: str, scorer: str = "reward") -> str:
    """The name by which a run's reward model, or that of another scorer, is found."""
    return f"{run}-reward" if scorer == "reward" else f"{run}-scorer-{scorer}"


def start_serve() -> None:
    """Start Ray Serve's controller; without HTTP proxies, as the endpoint listens by itself."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})


def up(applications: Mapping[str, serve.Application]) -> None:
    """Deploy applications together and wait until all run.

    Raises:
        CrucibleError: the applications that cannot start, and why.
    """
    if not applications:
        return
    targets = [
        serve.RunTarget(target=app, name=name, route_prefix=None)
        for name, app in applications.items()
    ]
    try:
        serve.run_many(targets, wait_for_applications_running=True)
    except (RuntimeError, RayServeException) as error:
        raise CrucibleError(_failed(applications) or one_line(error)) from error


def down(names: list[str]) -> None:
    """Take applications down and wait until their processes are gone."""
    deployed = serve.status().applications
    for name in names:
        if name in deployed:
            serve.delete(name, _blocking=False)
    while any(name in serve.status().applications for name in names):
        time.sleep(0.2)


@contextmanager
def serving(applications: Mapping[str, serve.Application]) -> Iterator[None]:
    """Applications that are up inside the block, and down after it whatever happens."""
    try:
        up(applications)
        yield
    finally:
        down(list(applications))


def handle(application: str) -> DeploymentHandle:
    """The handle of an application's ingress deployment."""
    return serve.get_app_handle(application)


def condition(application: str) -> str:
    """What Serve says of an application, in a line."""
    found = serve.status().applications.get(application)
    if found is None:
        return f"there is no application {application}"
    told = [f"{d.status.value} {d.message}" for d in found.deployments.values()]
    return " ".join("; ".join([found.status.value, *told]).split())[:300]


def running(before: Collection[str] = ()) -> list[str]:
    """Names of the applications that run now.

    Those of `before` run on while they are deployed anew, or while a new head takes them over.
    """
    apps = serve.status().applications
    fresh = {n for n, app in apps.items() if app.status == ApplicationStatus.RUNNING}
    deploying = {n for n, app in apps.items() if app.status == ApplicationStatus.DEPLOYING}
    return sorted(fresh | deploying & set(before))


def cause(message: str) -> str:
    """The error that ends what Serve says of a deployment, without the traceback before it.

    One of our own is its sentence alone.
    """
    starts = list(_ERROR.finditer(message))
    told = message[starts[-1].start() :] if starts else message
    return " ".join(_OWN_ERROR.sub("", told).split())[:_LONGEST_CAUSE]


def _failed(applications: Mapping[str, serve.Application]) -> str:
    statuses = serve.status().applications
    bad = [
        f"{name} did not start: {_why(statuses[name])}"
        for name in applications
        if name in statuses and statuses[name].status == ApplicationStatus.DEPLOY_FAILED
    ]
    return " ".join(bad)


def _why(application: ApplicationStatusOverview) -> str:
    """What Serve says of a deployment that failed; of the application it says only which."""
    failed = [
        deployment.message
        for deployment in application.deployments.values()
        if deployment.status == DeploymentStatus.DEPLOY_FAILED
    ]
    return cause(next(iter(failed), application.message))
