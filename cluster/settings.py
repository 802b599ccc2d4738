"""The one place that knows environment variables: ours are read here, the libraries' set here."""

import os
import sys
from pathlib import Path
from typing import Literal

from fusion.errors import BadInputError
from fusion.paths import expand_home

QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # actors of half a CPU start more processes than there are cores; that is meant so
    "RAY_DEDUP_LOGS_SKIP_REGEX": "PYTHON worker processes have been started",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what matters is raised; the rest stands in Ray's logs
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

# vLLM on CPU pins one thread a core and does not know of its neighbours (nobind), and keeps its
# worker in a process of its own unless multiprocessing is off (then it lives in the engine core).
CPU_ENGINE = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def apply_quiet_defaults() -> None:
    """Switch off telemetry and progress bars of the libraries, unless the user set them."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    bin_folder = str(Path(sys.executable).parent)
    if bin_folder not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([bin_folder, os.environ.get("PATH", "")])


def engine_environment(*, on_cpu: bool, threads: int) -> dict[str, str]:
    """Environment of a process that holds a vLLM engine."""
    if not on_cpu:
        return dict(QUIET)
    return {**QUIET, **CPU_ENGINE, "OMP_NUM_THREADS": str(threads)}


def isolator() -> Literal["bubblewrap", "pod"]:
    """What keeps programs in on this node: bubblewrap, unless the node's pod says it is itself.

    Raises:
        BadInputError: the environment names another.
    """
    match os.environ.get("CRUCIBLE_ISOLATOR", "bubblewrap"):
        case "bubblewrap":
            return "bubblewrap"
        case "pod":
            return "pod"
        case other:
            raise BadInputError(
                f"CRUCIBLE_ISOLATOR is {other!r} on this node; set it to bubblewrap or pod."
            )


def ray_address() -> str | None:
    """Address of the cluster this process was told to use; inside a Ray job it is set by Ray."""
    return os.environ.get("RAY_ADDRESS") or None


def job_server_address(given: str | None) -> str | None:
    """Address of the job server: as given, else from the environment.

    Ray lets its variables override what it is handed, so they are taken out of this process.
    """
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    stated = [value for name in names if (value := os.environ.pop(name, None))]
    return given or next(iter(stated), None)


def ray_token() -> str | None:
    """The token that the user named for a cluster, where Ray looks for it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path is None and os.environ.get("RAY_AUTH_MODE") == "token":
        path = "~/.ray/auth_token"
    file = Path(expand_home(path)) if path else None
    return file.read_text(encoding="utf-8").strip() if file and file.is_file() else None


def api_key() -> str | None:
    """The key that `crucible ask` shows to an endpoint that wants one."""
    return os.environ.get("CRUCIBLE_API_KEY") or None


def config_folder() -> Path:
    """Where this user keeps Crucible's settings."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "crucible"
