"""What every isolator does with a started sandbox: feed it, watch its limits, take its word."""

import contextlib
import functools
import marshal
import os
import secrets
import selectors
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib import resources
from io import FileIO
from time import monotonic

from fusion.verification.code import seccomp
from fusion.verification.code.interpreter import Interpreter, find_interpreter
from fusion.verification.code.isolator import Ending, IsolatorError, Outcome, Program
from fusion.verification.code.program import compile_tests
from fusion.verification.task import Limits

MIB = 1 << 20
START_TIMEOUT_S = 30.0
_TICK_S = 0.1  # between two looks at the memory of the whole tree
_MAX_REPORT = 4096
_ADVICE = (
    "install bubblewrap (apt-get install bubblewrap) on a Linux machine that allows user "
    "namespaces, or send code to nodes that have them (Ray resource `sandbox`)"
)


@dataclass
class Sandbox:
    """A started sandbox with the host's ends of its pipes.

    `uid` is the user that the program has still to become, 0 for none.
    """

    process: subprocess.Popen[bytes]
    report: FileIO
    uid: int
    held_bytes: Callable[[], int]
    said: bytes = b""
    output: bytes = b""


@dataclass(frozen=True)
class Runner(ABC):
    """Runs programs in sandboxes that a subclass starts; safe to use from several threads."""

    limits: Limits
    interpreter: Interpreter | None = None
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

    @property
    @abstractmethod
    def name(self) -> str:
        """What makes the sandbox, for messages."""

    @abstractmethod
    def missing(self) -> str | None:
        """What this machine lacks to make a sandbox, None if nothing is known to be missing."""

    @abstractmethod
    def sandbox(self) -> AbstractContextManager[Sandbox]:
        """A started sandbox; every process in it is dead when the context ends."""

    @property
    def trial(self) -> str:
        """The tests of the trial program, which show that the sandbox holds."""
        return "assert one() == 1"

    @property
    def remedy(self) -> str:
        """What to do where the trial program fails."""
        return "raise the limits of verification.code"

    @property
    def file_bytes(self) -> int:
        """How large a file a program may write."""
        return self.limits.code_file_mib * MIB

    @functools.cached_property
    def _hindrance(self) -> str | None:
        if missing := self.missing():
            return f"code cannot be checked here, as {missing}: {_ADVICE}"
        if not seccomp.is_known_machine():
            return f"code cannot be checked on this kind of processor: {_ADVICE} (x86-64 or Arm64)"
        tests = compile_tests(self.trial, "one")
        assert isinstance(tests, bytes)
        # The trial may come while a machine starts a hundred workers: it gets time enough.
        patient = replace(self, limits=replace(self.limits, code_timeout_s=START_TIMEOUT_S))
        try:
            outcome = patient.run(Program("def one(): return 1", tests, "one"))
        except (IsolatorError, OSError) as error:
            return f"code cannot be checked here, as {self.name} fails ({error}): {_ADVICE}"
        if outcome.ending is not Ending.PASSED:
            return (
                "code cannot be checked here, as a harmless program ends with "
                f"{outcome.ending.value} in the sandbox: {self.remedy}"
            )
        return None

    @functools.cached_property
    def python(self) -> Interpreter:
        """The interpreter that programs run on."""
        return self.interpreter or find_interpreter()

    def interpret(self, report: int) -> list[str]:
        """The command that runs the harness."""
        flags = ["-I", "-S", "-E", "-B", "-X", "utf8", "-c"]
        return [self.python.executable, *flags, self._harness, str(report), self.python.stdlib]

    def _run_once(self, program: Program) -> Outcome:
        start = monotonic()
        secret = secrets.token_bytes(32)
        with self.sandbox() as sandbox:
            ending = self._watch(sandbox, self._payload(program, sandbox.uid, secret), secret)
            return Outcome(ending, sandbox.output, monotonic() - start)

    def _payload(self, program: Program, uid: int, secret: bytes) -> bytes:
        limits = (
            self.limits.code_memory_mib * MIB,
            self.limits.code_processes,
            int(self.limits.code_timeout_s) + 1,
            self.file_bytes,
        )
        parts = (program.source, program.tests, program.entry_point, limits, uid, secret)
        return marshal.dumps(parts)

    def _watch(self, sandbox: Sandbox, payload: bytes, secret: bytes) -> Ending:
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

    def _is_over_memory(self, sandbox: Sandbox) -> bool:
        return sandbox.held_bytes() > self.limits.code_memory_mib * MIB

    def _collect_output(self, sandbox: Sandbox, descriptor: int) -> bool:
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


def _collect_report(sandbox: Sandbox, secret: bytes) -> Ending | None:
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


def pipe(stack: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """The reading and the writing end of a pipe, closed with the stack."""
    out, into = os.pipe()
    return stack.enter_context(FileIO(out, "r")), stack.enter_context(FileIO(into, "w"))
