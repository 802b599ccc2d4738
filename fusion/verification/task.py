"""What a verifier is given and what it answers."""

import os
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Task:
    """One reply to check, with the gold answer or the tests it must meet."""

    verifier: str
    response: str
    gold: str | None = None
    tests: str | None = None
    entry_point: str | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a reply is right, and the short typed reason for it."""

    correct: bool
    reason: str
    seconds: float


@dataclass(frozen=True)
class Malformed:
    """A row that no reply could meet: its gold or tests are unusable. One sentence says why."""

    detail: str


@dataclass(frozen=True)
class Limits:
    """What one check may use, and how many run side by side; what keeps programs in.

    Memory holds for each process and for the whole tree of a program; a file limit holds for
    each file and for all files together.
    """

    isolator: Literal["bubblewrap", "pod"] = "bubblewrap"
    code_timeout_s: float = 10
    code_memory_mib: int = 512
    code_processes: int = 16
    code_output_kib: int = 64
    code_file_mib: int = 16
    math_timeout_s: float = 5
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
