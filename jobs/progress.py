"""What a long command says while it works: one line an event, with the time since its start."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table as RichTable

from fusion.store import Table


class Progress:
    """Lines on a console: coloured on a terminal, plain elsewhere."""

    def __init__(self, console: Console, *, every_s: float = 10.0) -> None:
        self._console = console
        self._every_s = every_s
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """One event."""
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        self._console.print(f"[dim]{minutes:02d}:{seconds:02d}[/dim]  {text}", highlight=False)

    def show(self, table: RichTable) -> None:
        """A table, where a line would not do."""
        self._console.print(table)

    @contextmanager
    def repeating(self, line: Callable[[], str | None]) -> Iterator[None]:
        """Say a line every few seconds, as long as there is one."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(self._every_s):
                if text := line():
                    self.say(text)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    @contextmanager
    def counting(self, what: str, tables: Sequence[Table], wanted: int) -> Iterator[None]:
        """Say every few seconds how many rows came into some tables, of those wanted."""
        before = sum(table.num_rows for table in tables)

        def count() -> str:
            return f"{sum(table.num_rows for table in tables) - before:,} of {wanted:,} {what}"

        with self.repeating(count):
            yield
        self.say(count())
