"""One call beside the main thread, which may be left behind when the process is interrupted."""

import threading
from collections.abc import Callable


class Background:
    """Runs one call at a time in a thread of its own; what it raises comes with `wait`."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, call: Callable[[], None]) -> None:
        """Start a call, after the one before has ended."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the call to end, and raise what it raised."""
        if self._thread:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error:
            raise error

    def _run(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # handed to the thread that waits
            self._error = error
