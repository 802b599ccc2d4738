"""Processes that must not outlive this one, not even when it is killed."""

import subprocess

import psutil


def end_children_with_us() -> None:
    """Have the processes below this one killed when it ends, however it ends.

    vLLM's engine core waits for requests for ever when its replica is gone, and keeps the memory
    that the next replica needs. A shell sees our end as the end of its input.
    """
    children = " ".join(str(p.pid) for p in psutil.Process().children(recursive=True))
    if not children:
        return
    script = f"trap '' INT TERM HUP; cat >/dev/null; kill -9 {children} 2>/dev/null"
    subprocess.Popen(
        ["/bin/sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
