"""A pool of processes that compare formulas with math-verify.

math-verify interrupts itself by signals, which reach only a process's main thread, and a step in
C (10**10**10) is not interrupted at all. So each worker is a plain child process that can be
killed: no multiprocessing, which would import the caller's main module, a Ray worker's, again.
"""

import contextlib
import json
import os
import queue
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from time import monotonic

import fusion
from fusion.errors import CrucibleError

# Importing sympy on a busy machine takes several seconds.
_START_TIMEOUT_S = 120.0
# The worker interrupts itself at the time limit; this much later it is killed.
_GRACE_S = 1.0


class Judgement(Enum):
    """What a worker says of one answer."""

    EQUAL = "equal"
    WRONG_ANSWER = "wrong_answer"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    MALFORMED_GOLD = "malformed_gold"


class MathPool:
    """Up to `workers` processes, started when first needed; safe to use from many threads."""

    def __init__(self, workers: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._slots = workers
        for _ in range(workers):
            self._idle.put(None)

    def judge(self, gold: str, answers: Iterable[str]) -> Iterator[Judgement]:
        """Whether each answer equals the gold; what outlives its time limit is a timeout.

        One process judges them all, as it parses the gold once.
        """
        worker = self._idle.get()
        try:
            for answer in answers:
                worker = worker or _Worker(self._timeout_s)
                try:
                    judgement = worker.judge(gold, answer)
                except _WorkerEndedError:
                    worker.close()
                    worker, judgement = None, Judgement.TIMEOUT
                yield judgement
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Ends the idle workers; the pool starts new ones if it is used again."""
        for _ in range(self._slots):
            worker = self._idle.get()
            if worker is not None:
                worker.close()
        for _ in range(self._slots):
            self._idle.put(None)


class _WorkerEndedError(Exception):
    """The worker died or did not answer in time."""


class _Worker:
    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        root = Path(fusion.__file__).parent.parent
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fusion.verification.math_worker", str(timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])},
        )
        try:
            self._read(_START_TIMEOUT_S)
        except _WorkerEndedError as error:
            self.close()
            raise CrucibleError(
                "a maths worker did not start: try `python -c 'import math_verify'` in this "
                "environment and install math-verify if it fails"
            ) from error

    def judge(self, gold: str, answer: str) -> Judgement:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([gold, answer]).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise _WorkerEndedError from error
        return Judgement(self._read(self._timeout_s + _GRACE_S))

    def close(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process.wait()

    def _read(self, timeout_s: float) -> str:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = monotonic() + timeout_s
        line = b""
        while not line.endswith(b"\n"):
            left = max(0.0, deadline - monotonic())
            if not select.select([descriptor], [], [], left)[0]:
                raise _WorkerEndedError
            piece = os.read(descriptor, 4096)
            if not piece:
                raise _WorkerEndedError
            line += piece
        return line.decode().strip()
