"""The protocol that everything able to run an untrusted program follows."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from fusion.errors import CrucibleError


class Ending(Enum):
    """How a program ended; only PASSED says that its tests ran to their end without raising."""

    PASSED = "equal"
    SYNTAX_ERROR = "syntax_error"
    NO_ENTRY_POINT = "no_entry_point"
    CODE_FAILED = "code_failed"
    TESTS_FAILED = "tests_failed"
    EXITED = "exited"
    MEMORY = "memory"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Program:
    """Untrusted source, and the compiled tests (marshalled code object) that it must survive.

    The source must define `entry_point`, where one is given.
    """

    source: str
    tests: bytes
    entry_point: str | None


@dataclass(frozen=True)
class Outcome:
    """How a program ended, what it printed (cut at the limit) and how long it took."""

    ending: Ending
    output: bytes
    seconds: float


class IsolatorError(CrucibleError):
    """The isolator itself failed: nothing can be said of the program."""


class Isolator(Protocol):
    """Runs one program so that it can neither harm the machine nor forge its outcome."""

    def available(self) -> str | None:
        """None if programs can be run here, else one sentence: why not, and what to do."""
        ...

    def run(self, program: Program) -> Outcome:
        """Runs a program to its end or its limits; safe to call from several threads.

        Raises:
            IsolatorError: the sandbox could not be set up.
        """
        ...
