"""The isolator that runs each program in a bubblewrap sandbox of its own.

The program sees an interpreter, its libraries and an empty /tmp, all but /tmp read-only; no
network, no /proc, no environment, no process but its own. As root's limits bind nobody, a
sandbox started by root maps a second, unprivileged user and the program runs as that.
"""

import contextlib
import functools
import json
import os
import select
import selectors
import shutil
import signal
import subprocess
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from time import monotonic

from fusion.verification.code import seccomp
from fusion.verification.code.isolator import IsolatorError
from fusion.verification.code.runner import MIB, START_TIMEOUT_S, Runner, Sandbox, pipe
from fusion.verification.code.tree import resident_bytes

_NOBODY = 65534  # the overflow user: owns no file and no process
_END_TIMEOUT_S = 10.0


class Bubblewrap(Runner):
    """Runs programs under bubblewrap; safe to use from several threads."""

    @property
    def name(self) -> str:
        """What makes the sandbox, for messages."""
        return "bubblewrap"

    def missing(self) -> str | None:
        """What this machine lacks to make a sandbox, None if nothing is known to be missing."""
        return None if shutil.which("bwrap") else "no isolator is installed"

    @contextlib.contextmanager
    def sandbox(self) -> Iterator[Sandbox]:
        """A started sandbox; every process in it is dead when the context ends."""
        is_root = os.geteuid() == 0
        with contextlib.ExitStack() as stack:
            report, report_in = pipe(stack)
            info, info_in = pipe(stack)
            go, go_in = pipe(stack)
            rules, rules_in = pipe(stack)
            rules_in.write(seccomp.filter_program())
            rules_in.close()
            handed = [end.fileno() for end in (report_in, info_in, go, rules)]
            process = subprocess.Popen(
                self._command(is_root, *handed),
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={},
                pass_fds=handed,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            for end in (report_in, info_in, go, rules):
                end.close()
            init_pid = _read_init_pid(info, process)
            init = stack.enter_context(FileIO(os.pidfd_open(init_pid)))
            stack.callback(_kill, init)
            if is_root:
                _map_users(init_pid)
            go_in.write(b"1")
            uid = _NOBODY if is_root else 0
            yield Sandbox(process, report, uid, functools.partial(resident_bytes, init_pid))

    def _command(self, is_root: bool, report: int, info: int, go: int, rules: int) -> list[str]:
        python = self.python
        tmp_bytes = self.limits.code_file_mib * MIB
        command = ["bwrap", "--unshare-user", "--unshare-all", "--die-with-parent"]
        command += ["--new-session", "--clearenv", "--hostname", "sandbox", "--cap-drop", "ALL"]
        if is_root:
            # Only to step down to the unprivileged user; that step gives these up as well.
            command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        command += ["--userns-block-fd" if is_root else "--block-fd", str(go)]
        command += ["--info-fd", str(info), "--seccomp", str(rules)]
        # Left to itself, bubblewrap makes parents with the host's modes: /root is closed to all.
        for parent in sorted(
            {str(up) for path in python.shown for up in Path(path).parents} - {"/"}
        ):
            command += ["--perms", "0755", "--dir", parent]
        for path in python.shown:
            command += ["--ro-bind", path, path]
        for path in python.hidden:
            empty = ["--ro-bind", "/dev/null", path]
            command += ["--tmpfs", path, "--remount-ro", path] if os.path.isdir(path) else empty
        for device in ("/dev/null", "/dev/urandom"):
            command += ["--dev-bind", device, device]
        command += ["--perms", "1777", "--size", str(tmp_bytes), "--tmpfs", "/tmp"]
        command += ["--remount-ro", "/", "--chdir", "/tmp", "--"]
        return [*command, *self.interpret(report)]


def _read_init_pid(info: FileIO, process: subprocess.Popen[bytes]) -> int:
    """The host's id of the sandbox's first process, from what bubblewrap tells of itself."""
    said = b""
    deadline = monotonic() + START_TIMEOUT_S
    with selectors.DefaultSelector() as selector:
        selector.register(info, selectors.EVENT_READ)
        while b"}" not in said:
            if not selector.select(deadline - monotonic()):
                raise IsolatorError("bubblewrap did not start in time")
            piece = info.read(4096)
            if not piece:
                assert process.stdout is not None
                message = process.stdout.read(300).decode(errors="replace").strip()
                raise IsolatorError(message or "bubblewrap ended before it started the sandbox")
            said += piece
    return int(json.loads(said)["child-pid"])


def _map_users(pid: int) -> None:
    """Gives the sandbox root, to set it up, and the unprivileged user that the program becomes."""
    try:
        for kind in ("uid", "gid"):
            with open(f"/proc/{pid}/{kind}_map", "w") as table:
                table.write(f"0 0 1\n{_NOBODY} {_NOBODY} 1\n")
    except OSError as error:
        raise IsolatorError(f"no unprivileged user could be mapped: {error}") from error


def _kill(init: FileIO) -> None:
    """Kills the sandbox's first process, and so every other; returns when all of them are gone."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(init.fileno(), signal.SIGKILL)
    select.select([init], [], [], _END_TIMEOUT_S)
