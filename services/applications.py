"""Up and down of a named set of Serve applications, several at once."""

import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatus
from ray.util import placement_group_table

from fusion.errors import CrucibleError, one_line

log = logging.getLogger(__name__)

# What a call raises whose replica dies.
DEATHS = (RayActorError, RayServeException)
# Serve takes a moment to see that a replica is gone; what is sent before it is lost as well.
PAUSE_AFTER_DEATH_S = 5.0
LOOK_EVERY_S = 0.5
TELL_EVERY_S = 60.0
# How Serve names a replica, and its placement group: SERVE_REPLICA::APPLICATION#DEPLOYMENT#ID.
_REPLICA = "SERVE_REPLICA::"
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


def run_deployment(run: str) -> str:
    """The name of the deployment in all applications that a run brings up for its own stages.

    It tells them from those of an endpoint, which may have the same names.
    """
    return f"run-{run}"


def start_serve() -> None:
    """Start Ray Serve's controller; without HTTP proxies, as the endpoint listens by itself."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})


def up(
    applications: Mapping[str, serve.Application],
    *,
    gpus: Mapping[str, int] | None = None,
    wait_s: float = math.inf,
) -> None:
    """Deploy applications and wait until all run.

    Ray puts each group of GPUs where most is free, so the largest groups come first: those of one
    size are deployed together, once all larger ones have their place.

    Args:
        applications: The applications by name.
        gpus: GPUs of one node that a replica takes, by name; 1 where it is not said.
        wait_s: How long they may wait for room on the cluster, without one replica finding any.

    Raises:
        CrucibleError: one of them cannot start, and why, or finds no room.
    """
    sizes = {name: (gpus or {}).get(name, 1) for name in applications}
    for size in sorted(set(sizes.values()), reverse=True):
        _deploy({name: app for name, app in applications.items() if sizes[name] == size})
        _wait([n for n in applications if sizes[n] >= size], _have_room, wait_s)
    _wait(list(applications), _all_run, wait_s)


def _deploy(applications: Mapping[str, serve.Application]) -> None:
    targets = [
        serve.RunTarget(target=app, name=name, route_prefix=None)
        for name, app in applications.items()
    ]
    try:
        serve.run_many(targets, wait_for_applications_running=False)
    except (RuntimeError, RayServeException) as error:
        raise CrucibleError(_failed(list(applications)) or one_line(error)) from error


def _wait(names: Sequence[str], is_done: Callable[[Sequence[str]], bool], wait_s: float) -> None:
    """Wait as long as applications start, and `wait_s` while the same replicas have no room."""
    waiting: list[str] = []
    since = told_at = time.monotonic()
    while not is_done(names):
        if failed := _failed(names):
            raise CrucibleError(failed)
        before, waiting, now = waiting, _without_room(names), time.monotonic()
        if waiting != before:
            since = told_at = now
        who = ", ".join(dict.fromkeys(waiting))
        if waiting and now - since > wait_s:
            raise CrucibleError(
                f"The cluster has had no room for {who} for {wait_s:g} s; Ray Serve says: "
                f"{condition(waiting[0])}. Add nodes, free what others hold, or raise "
                "failures.wait_s, and start the same command again: what is committed is kept."
            )
        if waiting and now - told_at > TELL_EVERY_S:
            told_at = now
            log.warning("%s: waiting for room on the cluster", who)
        time.sleep(LOOK_EVERY_S)


def _all_run(names: Sequence[str]) -> bool:
    return set(names) <= set(running())


def _have_room(names: Sequence[str]) -> bool:
    return not _without_room(names)


def _without_room(names: Sequence[str]) -> list[str]:
    """The application of each replica that has not found its place, or has not asked for one."""
    apps = serve.status().applications  # a replica that it tells of has asked
    has_asked = {
        name
        for name, app in apps.items()
        if app.deployments and all(d.replica_states for d in app.deployments.values())
    }
    asking = Counter(
        group["name"].removeprefix(_REPLICA).partition("#")[0]
        for group in placement_group_table().values()
        if group["state"] not in ("CREATED", "REMOVED")
    )
    return [n for n in names for _ in range(max(asking[n], n not in has_asked))]


def down(names: Collection[str]) -> None:
    """Take applications down and wait until their processes are gone."""
    deployed = serve.status().applications
    for name in names:
        if name in deployed:
            serve.delete(name, _blocking=False)
    while any(name in serve.status().applications for name in names):
        time.sleep(LOOK_EVERY_S)


def down_leftovers(run: str) -> None:
    """Take down what an earlier driver of a run has left up, before anything of it comes up."""
    apps = serve.status().applications
    left = [name for name, app in apps.items() if run_deployment(run) in app.deployments]
    if left:
        log.warning("%s were left up by an earlier start and go down", ", ".join(left))
        down(left)


@contextmanager
def serving(
    applications: Mapping[str, serve.Application],
    *,
    gpus: Mapping[str, int] | None = None,
    wait_s: float = math.inf,
) -> Iterator[None]:
    """Applications that are up inside the block, and down after it whatever happens; see `up`."""
    try:
        up(applications, gpus=gpus, wait_s=wait_s)
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


def _failed(names: Collection[str]) -> str:
    statuses = serve.status().applications
    bad = [
        f"{name} did not start: {_why(statuses[name])}"
        for name in names
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
