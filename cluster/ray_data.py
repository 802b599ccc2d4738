"""How Ray Data runs for us: quiet, and patient with slow answers."""

import logging

import ray


def quiet_ray_data() -> None:
    """No progress bars of Ray's, and no give-up while a long generation makes no output."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1
    context.verbose_stats_logs = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
