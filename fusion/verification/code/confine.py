"""Runs before the harness where a pod is the sandbox: what the harness cannot do to itself.

It installs a system-call filter, which any number of later programs inherit and none can remove,
and becomes the harness. Its first argument is the descriptor of the filter, the rest the command.
"""

import ctypes
import os
import sys

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
_BYTES_A_STEP = 8  # struct sock_filter


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def main() -> None:
    """Installs the filter and becomes the command."""
    steps = os.read(int(sys.argv[1]), 1 << 16)
    program = _Program(len(steps) // _BYTES_A_STEP, steps)
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*call):
            sys.exit(f"the pod allows no system-call filter ({os.strerror(ctypes.get_errno())})")
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
