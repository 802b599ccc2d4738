"""A lease keeps two drivers from running one stage of one run together.

Claims are small files in one folder; put, list and delete are all that is asked of the storage.
Whoever wants the lease writes a claim, lists the folder, and holds the lease if no other live claim
is there; else it withdraws. Since each writes before it lists, of two that come together at least
one sees the other: never do both hold it, though both may have to try again.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from fusion.errors import CrucibleError
from fusion.store.location import Entry, Location

ATTEMPTS = 4
# S3 gives times of change in whole seconds.
CLOCK_STEP_S = 1.0
# Unlike CLOCK_MONOTONIC it goes on while a laptop sleeps; not every system has it.
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Claim(BaseModel):
    """Who wants or holds a lease."""

    model_config = ConfigDict(frozen=True)

    host: str
    machine: str
    """Boot id and pid namespace: where pids mean the same; '' where the system tells neither."""
    pid: int
    process_started: str
    """Start time of the process in ticks since boot, which tells it from a later one of its pid."""
    acquired_at: datetime
    renewed_at: datetime

    def is_dead(self) -> bool:
        """Whether its process is known to have ended; False where this machine cannot know."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False  # another user's process, of which /proc may tell nothing
        return _process_started(self.pid) != self.process_started


@dataclass(frozen=True)
class _Rival:
    claim: Claim
    location: Location


class Lease:
    """The right to run, held while the `with` block runs and renewed by a thread meanwhile.

    A claim that was not renewed for `ttl_s` seconds by the storage's clock is cleared by the next
    who comes; one whose process has ended on this machine is cleared at once.

    Raises:
        CrucibleError: on entry, when another live claim stands.
    """

    def __init__(self, location: Location, name: str, *, ttl_s: float = 60.0) -> None:
        """`location` is the folder of all leases, `name` what is to be run by one alone."""
        self._folder = location / name
        self._name = name
        self._ttl_s = ttl_s
        self._stop = threading.Event()
        self._renewing = threading.Lock()
        self._lost = ""

    def __enter__(self) -> Self:
        """Take the lease, or refuse with a sentence that says who holds it."""
        rivals: list[_Rival] = []
        for attempt in range(ATTEMPTS):
            self._claim()
            try:
                rivals = self._live_rivals()
            except BaseException:
                self._own.delete()
                raise
            if not rivals and not self._lost:
                self._start_heartbeat()
                return self
            self._own.delete()
            time.sleep(random.uniform(0.05, 0.2) * 2**attempt)
        raise CrucibleError(self._refusal(rivals))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lease back."""
        self._stop.set()
        self._thread.join(timeout=self._ttl_s)
        self._own.delete()

    def check(self) -> None:
        """Say whether the lease is still held; call it before what only one may write.

        Raises:
            CrucibleError: the lease was lost: it was cleared, or could not be renewed in time.
        """
        age_s = _now_s() - self._renewed_s
        if not self._lost and age_s >= self._ttl_s:
            with contextlib.suppress(OSError):
                self._renew()
            age_s = _now_s() - self._renewed_s
        if not self._lost and age_s < self._ttl_s:
            return
        reason = self._lost or f"it was last renewed {age_s:.0f} s ago, {self._ttl_s:.0f} s allowed"
        raise CrucibleError(
            f"the lease on {self._name} in {self._folder} was lost ({reason}), so another driver "
            "may be at work; expected to hold it to the end: start the command again, it resumes"
        )

    def _claim(self) -> None:
        self._stop.clear()
        self._lost = ""
        self._own = self._folder / f"{uuid4().hex}.json"
        self._acquired_at = datetime.now(UTC)
        self._write()

    def _write(self) -> None:
        started_s = _now_s()  # before the write, so that we give up before others clear us
        claim = Claim(
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            process_started=_process_started(os.getpid()),
            acquired_at=self._acquired_at,
            renewed_at=datetime.now(UTC),
        )
        self._own.write_text(claim.model_dump_json())
        self._renewed_s = started_s

    def _live_rivals(self) -> list[_Rival]:
        # Twice: a listing may miss a file that is being replaced at that moment by its renewal.
        entries = {entry.name: entry for _ in range(2) for entry in self._folder.list()}
        own = entries.pop(self._own.name, None)
        if own is None:
            self._lost = "its claim was cleared"
            return []
        return [rival for entry in entries.values() if (rival := self._live(entry, own))]

    def _live(self, entry: Entry, own: Entry) -> _Rival | None:
        """The claim behind an entry if it stands; a dead or expired one is cleared."""
        location = self._folder / entry.name
        try:
            claim = Claim.model_validate_json(location.read_text())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise CrucibleError(
                f"{location} is not a lease claim; expected the JSON that a driver writes: delete "
                "it if no driver is at work"
            ) from error
        # Both times were set by the storage, so the clocks of the two hosts may differ.
        is_expired = own.modified_at - entry.modified_at > self._ttl_s + CLOCK_STEP_S
        if is_expired or claim.is_dead():
            location.delete()
            return None
        return _Rival(claim, location)

    def _refusal(self, rivals: list[_Rival]) -> str:
        if not rivals:
            return f"the lease on {self._name} could not be taken ({self._lost}); start again"
        claim = rivals[0].claim
        return (
            f"{self._name} is being run by process {claim.pid} on {claim.host} since "
            f"{claim.acquired_at:%Y-%m-%d %H:%M:%S} UTC; expected no other driver: wait for it or "
            f"stop it, and if it is gone already start again in {self._ttl_s:.0f} s or delete "
            f"{rivals[0].location}"
        )

    def _start_heartbeat(self) -> None:
        self._thread = threading.Thread(target=self._beat, name=f"lease {self._name}", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(self._ttl_s / 3) and not self._lost:
            try:
                self._renew()
            except OSError:
                continue  # the storage may come back in time; if not, check() says so

    def _renew(self) -> None:
        """Write the claim again; one that expired while the storage was away is taken anew.

        As for a new claim: whoever cleared it meanwhile wrote first and is seen in the listing.
        """
        with self._renewing:
            is_late = _now_s() - self._renewed_s >= self._ttl_s
            if self._lost:
                return
            if not self._own.exists():
                self._lost = "its claim was cleared"
                return
            self._write()
            if is_late and self._live_rivals():
                self._lost = "it could not be renewed in time and another driver took it"
                self._own.delete()


def _now_s() -> float:
    return time.clock_gettime(CLOCK)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_started(pid: int) -> str:
    """Ticks since boot at which the process started; '' for one that has ended."""
    try:
        # The fields after the command, which stands in brackets and may hold spaces (proc(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, started = fields[0], fields[19]
    return "" if state in "ZX" else started
