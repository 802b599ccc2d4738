"""What goes wrong with a storage: what passes is waited for, the rest is one sentence."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar

from fusion.errors import CrucibleError

T = TypeVar("T")

# How long a storage may be away before a stage stops; each request has the AWS SDK's own three
# attempts within that time.
PATIENCE_S = 120.0
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 10.0

# Names of errors in pyarrow's messages (arrow/filesystem/s3_internal.h): the server's fault or the
# network's, so that the same request may succeed later.
_PASSING = (
    "NETWORK_CONNECTION",
    "INTERNAL_FAILURE",
    "SERVICE_UNAVAILABLE",
    "SLOW_DOWN",
    "THROTTLING",
    "REQUEST_TIMEOUT",
    "(HTTP status 5",
)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StorageError(CrucibleError, OSError):
    """The storage failed; what was committed before is whole and stays."""


class StorageAwayError(StorageError):
    """The storage was waited for as long as `PATIENCE_S` and did not come back."""


def is_passing(error: BaseException) -> bool:
    """Whether a later attempt at the same may succeed."""
    if not isinstance(error, OSError) or isinstance(error, StorageError):
        return False
    text = str(error)
    return "AWS Error" in text and any(fault in text for fault in _PASSING)


def patiently(act: Callable[[], T], place: object) -> T:
    """What `act` returns, tried again for up to `PATIENCE_S` while the storage is away.

    Raises:
        StorageAwayError: it was away for longer.
        OSError: anything else that went wrong, at once.
    """
    deadline = time.monotonic() + PATIENCE_S
    wait_s = _FIRST_WAIT_S
    logger = logging.getLogger(__name__)
    while True:
        try:
            return act()
        except OSError as error:
            if not is_passing(error):
                raise
            if time.monotonic() + wait_s > deadline:
                raise StorageAwayError(_away(place, error)) from error
            logger.warning("The storage of %s is away, trying again in %.1f s.", place, wait_s)
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def write_failure(place: object, error: OSError) -> StorageError:
    """The sentence for a local write that failed."""
    cause = os.strerror(error.errno) if error.errno else str(error)
    advice = "free some space" if error.errno in _FULL else "mend it"
    return StorageError(
        f"{place} could not be written ({cause}); expected a storage with room that this user may "
        f"write to: {advice} and start the same command again, what was committed is kept"
    )


def _away(place: object, error: OSError) -> str:
    cause = str(error).splitlines()[0]
    return (
        f"the storage of {place} has not answered as it should for {PATIENCE_S:.0f} s ({cause}); "
        "expected it back by now: see to the storage or the network and start the same command "
        "again, what was committed is kept"
    )
