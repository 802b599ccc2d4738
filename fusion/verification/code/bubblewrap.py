"""The isolator that runs each program in a bubblewrap sandbox of its own.

The program sees an interpreter, its libraries and an empty /tmp, all but /tmp read-only; no
network, no /proc, no environment, no process but its own. As root's limits bind nobody, a
sandbox started by root maps a second, unprivileged user and the program runs as that.
"""

import contextlib
import functools
import json
import marshal
import os
import secrets
import select
import selectors
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import resources
from io import FileIO
from pathlib import Path
from time import monotonic

from fusion.verification.code import seccomp
from fusion.verification.code.interpreter import Interpreter, find_interpreter
from fusion.verification.code.isolator import Ending, IsolatorError, Outcome, Program
from fusion.verification.code.tree import resident_bytes
from fusion.verification.task import Limits

_NOBODY = 65534  # the overflow user: owns no file and no process
_MIB = 1 << 20
_TICK_S = 0.1  # between two looks at the memory of the whole tree
_START_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 10.0
_MAX_REPORT = 4096
_ADVICE = (
    "install bubblewrap (apt-get install bubblewrap) on a Linux machine that allows user "
    "namespaces, or send code to nodes that have them (Ray resource `sandbox`)"
)


@dataclass
class _Sandbox:
    """One running bubblewrap with the host's ends of its pipes."""

    process: subprocess.Popen[bytes]
    init_pid: int
    report: FileIO
    said: bytes = b""
    output: bytes = b""


@dataclass(frozen=True)
class Bubblewrap:
    """Runs programs under bubblewrap; safe to use from several threads."""

    limits: Limits
    _harness: str = field(
        default_factory=lambda: resources.files(__package__).joinpath("harness.py").read_text()
    )

    def available(self) -> str | None:
        """None if a harmless program passes in a sandbox here, else why not and what to do."""
        return self._hindrance

    def run(self, program: Program) -> Outcome:
        """Runs a program once; a sandbox that fails to start is tried a second time.

        Raises:
            IsolatorError: the sandbox failed to start twice.
        """
        with contextlib.suppress(IsolatorError):
            return self._run_once(program)
        return self._run_once(program)

    @functools.cached_property
    def _hindrance(self) -> str | None:
        if shutil.which("bwrap") is None:
            return f"code cannot be checked here, as no isolator is installed: {_ADVICE}"
        if not seccomp.is_known_machine():
            return f"code cannot be checked on this kind of processor: {_ADVICE} (x86-64 or Arm64)"
        tests = marshal.dumps(compile("assert one() == 1", "tests.py", "exec"))
        # The trial may come while a machine starts a hundred workers: it gets time enough.
        patient = replace(self, limits=replace(self.limits, code_timeout_s=_START_TIMEOUT_S))
        try:
            outcome = patient.run(Program("def one(): return 1", tests, "one"))
        except (IsolatorError, OSError) as error:
            return f"code cannot be checked here, as bubblewrap fails ({error}): {_ADVICE}"
        if outcome.ending is not Ending.PASSED:
            return (
                "code cannot be checked here, as a harmless program ends with "
                f"{outcome.ending.value} in the sandbox: raise the limits of verification.code"
            )
        return None

    @functools.cached_property
    def _interpreter(self) -> Interpreter:
        return find_interpreter()

    def _run_once(self, program: Program) -> Outcome:
        start = monotonic()
        secret = secrets.token_bytes(32)
        with self._sandbox() as sandbox:
            ending = self._watch(sandbox, self._payload(program, secret), secret)
            return Outcome(ending, sandbox.output, monotonic() - start)

    @contextlib.contextmanager
    def _sandbox(self) -> Iterator[_Sandbox]:
        """A started sandbox; every process in it is dead when the context ends."""
        is_root = os.geteuid() == 0
        with contextlib.ExitStack() as stack:
            report, report_in = _pipe(stack)
            info, info_in = _pipe(stack)
            go, go_in = _pipe(stack)
            rules, rules_in = _pipe(stack)
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
            yield _Sandbox(process, init_pid, report)

    def _command(self, is_root: bool, report: int, info: int, go: int, rules: int) -> list[str]:
        python = self._interpreter
        tmp_bytes = self.limits.code_file_mib * _MIB
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
        command += ["--remount-ro", "/", "--chdir", "/tmp", "--", python.executable]
        flags = ["-I", "-S", "-E", "-B", "-X", "utf8", "-c"]
        return [*command, *flags, self._harness, str(report), python.stdlib]

    def _payload(self, program: Program, secret: bytes) -> bytes:
        limits = (
            self.limits.code_memory_mib * _MIB,
            self.limits.code_processes,
            int(self.limits.code_timeout_s) + 1,
            self.limits.code_file_mib * _MIB,
        )
        uid = _NOBODY if os.geteuid() == 0 else 0
        parts = (program.source, program.tests, program.entry_point, limits, uid, secret)
        return marshal.dumps(parts)

    def _watch(self, sandbox: _Sandbox, payload: bytes, secret: bytes) -> Ending:
        """Feeds the sandbox, collects what it says and ends at the first of word, limit, death."""
        stdin, stdout = sandbox.process.stdin, sandbox.process.stdout
        assert stdin is not None
        assert stdout is not None
        deadline = monotonic() + self.limits.code_timeout_s
        next_look = monotonic() + _TICK_S
        with selectors.DefaultSelector() as selector:
            os.set_blocking(stdin.fileno(), False)
            selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(sandbox.report, selectors.EVENT_READ)
            while (now := monotonic()) < deadline:
                if now >= next_look:
                    next_look = now + _TICK_S
                    if self._is_over_memory(sandbox):
                        return Ending.MEMORY
                for key, _ in selector.select(min(deadline, next_look) - now):
                    if key.fileobj is stdin:
                        payload = _feed(stdin.fileno(), payload)
                        if not payload:
                            selector.unregister(stdin)
                            stdin.close()
                    elif key.fileobj is stdout:
                        if not self._collect_output(sandbox, stdout.fileno()):
                            selector.unregister(stdout)
                    elif ending := _collect_report(sandbox, secret):
                        return ending
        return Ending.TIMEOUT

    def _is_over_memory(self, sandbox: _Sandbox) -> bool:
        return resident_bytes(sandbox.init_pid) > self.limits.code_memory_mib * _MIB

    def _collect_output(self, sandbox: _Sandbox, descriptor: int) -> bool:
        """Keeps output up to its limit and drops the rest; False at its end."""
        piece = os.read(descriptor, 1 << 16)
        left = self.limits.code_output_kib * 1024 - len(sandbox.output)
        sandbox.output += piece[: max(0, left)]
        return bool(piece)


_WORDS = {
    ending.value.encode(): ending
    for ending in Ending
    if ending not in (Ending.PASSED, Ending.TIMEOUT)
}


def _collect_report(sandbox: _Sandbox, secret: bytes) -> Ending | None:
    """What the harness says, if it has said it: the secret for a pass, a word for a failure.

    The program can forge the words, which only makes it fail.
    """
    piece = sandbox.report.read(_MAX_REPORT)
    sandbox.said += piece
    if secret in sandbox.said:
        return Ending.PASSED
    for line in sandbox.said.split(b"\n")[:-1]:
        if line in _WORDS:
            return _WORDS[line]
    if piece and len(sandbox.said) < _MAX_REPORT:
        return None
    if b"\nstarted\n" not in sandbox.said:
        message = sandbox.output.decode(errors="replace").strip()[-300:]
        raise IsolatorError(message or "the sandbox ended before the program began")
    return Ending.EXITED


def _feed(descriptor: int, payload: bytes) -> bytes:
    try:
        return payload[os.write(descriptor, payload[:65536]) :]
    except BlockingIOError:
        return payload
    except BrokenPipeError:  # the sandbox is gone: its report ends as well
        return b""


def _read_init_pid(info: FileIO, process: subprocess.Popen[bytes]) -> int:
    """The host's id of the sandbox's first process, from what bubblewrap tells of itself."""
    said = b""
    deadline = monotonic() + _START_TIMEOUT_S
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


def _pipe(stack: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    out, into = os.pipe()
    return stack.enter_context(FileIO(out, "r")), stack.enter_context(FileIO(into, "w"))
