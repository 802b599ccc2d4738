"""How Ray Data runs for us: quiet, patient with slow answers, and true to what workers raise."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayTaskError

from fusion.errors import CrucibleError

# Ray Data writes this, and how to have it try again, under what a worker raised.
_RAY_S_ADVICE = "\nFailed to apply UDF transform after"


def quiet_ray_data() -> None:
    """No output of Ray's, and no give-up while a long generation makes no output.

    A data set keeps the settings of the moment at which it is made: call this before.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1
    context.verbose_stats_logs = False
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is raised


@contextmanager
def own_words() -> Iterator[None]:
    """Raise a `CrucibleError` of a Ray Data worker as the worker raised it, with its sentence."""
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        if not isinstance(cause, CrucibleError):
            raise
        cause.args = (str(cause).partition(_RAY_S_ADVICE)[0],)
        raise cause from None
