"""A verifier that needs no process: one function compares each reply with its gold."""

from collections.abc import Callable, Sequence

from fusion.verification.task import Malformed, Task, Verdict


class ComparingVerifier:
    """Judges every task by a function."""

    def __init__(self, version: str, judge: Callable[[Task], Verdict | Malformed]) -> None:
        self.version = version
        self._judge = judge

    def verify(self, tasks: Sequence[Task]) -> list[Verdict | Malformed]:
        """Judges every task, in order."""
        return [self._judge(task) for task in tasks]

    def close(self) -> None:
        """Nothing to end."""
