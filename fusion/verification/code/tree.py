"""Reads from /proc what a tree of processes holds."""

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
            _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
            for thread in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (thread / "children").read_text().split())
        except OSError:
            continue
        total += (int(resident) - int(shared)) * _PAGE_BYTES
    return total
