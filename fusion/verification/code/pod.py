"""The isolator of a worker whose pod is itself the sandbox: a kernel of its own (gVisor, Kata).

The pod keeps programs from the machine. What this keeps from them is the rest of the pod, Ray and
its token: each program runs as a user of its own, with a system-call filter that denies the
network, and can write no byte to a file. It sees the files of the image and Ray's logs, no secret.
Only a pod that says so is used in this way; nothing falls back to it.
"""

import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources

from fusion.verification.code import seccomp
from fusion.verification.code.runner import Runner, Sandbox, pipe
from fusion.verification.code.tree import group_bytes

_FIRST_UID, _NUM_UIDS = 20_000, 40_000  # below 65,536, where a user namespace ends
_TRIAL = """
assert one() == 1
import os, socket
assert os.getuid() >= 20_000 and os.getgroups() == []
for path in ("/proc/self/mem", f"/proc/{os.getppid()}/environ"):
    try:
        open(path, "rb").close()
    except OSError:
        continue
    raise AssertionError(path)
try:
    socket.socket()
except OSError:
    pass
else:
    raise AssertionError("network")
"""


@dataclass(frozen=True)
class Pod(Runner):
    """Runs programs as users of their own; safe to use from several threads."""

    _confine: str = field(
        default_factory=lambda: resources.files(__package__).joinpath("confine.py").read_text()
    )

    @property
    def name(self) -> str:
        """What makes the sandbox, for messages."""
        return "the pod"

    @property
    def trial(self) -> str:
        """The tests of the trial program, which show that the sandbox holds."""
        return _TRIAL

    @property
    def remedy(self) -> str:
        """What to do where the trial program fails."""
        return "use an image whose Python all users may read, in a pod that keeps users apart"

    @property
    def file_bytes(self) -> int:
        """No file may grow: what one program leaves behind the next would find."""
        return 0

    def missing(self) -> str | None:
        """What this machine lacks to make a sandbox, None if nothing is known to be missing."""
        if os.geteuid() != 0:
            return "the pod isolator starts as root of its pod to give each program its own user"
        return None

    @contextlib.contextmanager
    def sandbox(self) -> Iterator[Sandbox]:
        """A started sandbox; every process in it is dead when the context ends."""
        with contextlib.ExitStack() as stack:
            report, report_in = pipe(stack)
            rules, rules_in = pipe(stack)
            rules_in.write(seccomp.filter_program(confined=True))
            rules_in.close()
            first = [self.python.executable, "-I", "-S", "-B", "-c", self._confine]
            process = subprocess.Popen(
                [*first, str(rules.fileno()), *self.interpret(report_in.fileno())],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={},
                cwd="/",
                pass_fds=(report_in.fileno(), rules.fileno()),
                start_new_session=True,
            )
            stack.enter_context(process)
            stack.callback(_kill_group, process.pid)
            for end in (report_in, rules):
                end.close()
            uid = _FIRST_UID + process.pid % _NUM_UIDS
            yield Sandbox(process, report, uid, functools.partial(group_bytes, process.pid))


def _kill_group(group: int) -> None:
    """Kills the program and all it started: none could leave the group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
