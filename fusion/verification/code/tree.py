"""Reads from /proc what a tree or a group of processes holds."""

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(root: int) -> int:
    """Private memory of a process and all its descendants; what has just ended counts nothing."""
    total = 0
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        try:
            total += _private_bytes(pid)
            for thread in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (thread / "children").read_text().split())
        except OSError:
            continue
    return total


def group_bytes(group: int) -> int:
    """Private memory of all processes of a process group."""
    total = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            # The name in parentheses may hold spaces; the group is the third field behind it.
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += _private_bytes(int(name))
        except OSError:
            continue
    return total


def _private_bytes(pid: int) -> int:
    _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(resident) - int(shared)) * _PAGE_BYTES
