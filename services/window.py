"""The answers in flight in one engine, bounded by a window that follows the engine's appetite."""

import asyncio
from collections import deque
from typing import Any

from fusion.window import FIRST_WINDOW, largest_window, next_window


class Window:
    """`async with window:` waits, first come first served, until the engine wants one more.

    It stands among the engine's stat loggers (vLLM's `StatLoggerBase`), and so is told after every
    step what runs and what waits.
    """

    def __init__(self, max_num_seqs: int) -> None:
        self._largest = largest_window(max_num_seqs)
        self.size = min(FIRST_WINDOW, self._largest)
        self._in_flight = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave()
            raise

    async def __aexit__(self, *error: object) -> None:
        self._leave()

    def record(self, scheduler_stats: Any, iteration_stats: Any, **more: Any) -> None:
        """Take what the engine says of its last step."""
        if scheduler_stats is None:
            return
        self.size = next_window(
            self.size,
            in_flight=self._in_flight,
            running=scheduler_stats.num_running_reqs,
            waiting=scheduler_stats.num_waiting_reqs,
            largest=self._largest,
        )
        self._admit()

    def log(self) -> None:
        """A stat logger's other duties; the window has nothing to say."""

    def log_engine_initialized(self) -> None:
        """Nothing to say."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """Nothing to say."""

    def _leave(self) -> None:
        self._in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        while self._queue and self._in_flight < self.size:
            turn = self._queue.popleft()
            if not turn.cancelled():
                self._in_flight += 1
                turn.set_result(None)
