"""Code answers: a reply is right when its program meets its tests inside the sandbox."""

import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from fusion.verification.code.bubblewrap import Bubblewrap
from fusion.verification.code.isolator import Ending, Isolator, IsolatorError, Program
from fusion.verification.code.pod import Pod
from fusion.verification.code.program import compile_tests, prepare
from fusion.verification.task import Limits, Malformed, Task, Verdict

ISOLATORS = {"bubblewrap": Bubblewrap, "pod": Pod}


class CodeVerifier:
    """Runs programs side by side under an isolator; identical ones of a batch run once."""

    version = f"code-3+python-{platform.python_version()}"

    def __init__(self, limits: Limits, isolator: Isolator | None = None) -> None:
        self._workers = limits.workers
        self._isolator = isolator or ISOLATORS[limits.isolator](limits)

    def verify(self, tasks: Sequence[Task]) -> list[Verdict | Malformed]:
        """Judges every task, in order.

        Raises:
            IsolatorError: no isolator works here; nothing is ever run without one.
        """
        compiled = {
            key: compile_tests(*key) for key in {(task.tests, task.entry_point) for task in tasks}
        }
        prepared = [self._prepare(task, compiled[task.tests, task.entry_point]) for task in tasks]
        programs = list(dict.fromkeys(item for item in prepared if isinstance(item, Program)))
        verdicts = self._run_all(programs) if programs else {}
        return [verdicts[item] if isinstance(item, Program) else item for item in prepared]

    def close(self) -> None:
        """Nothing to end: no sandbox outlives its program."""

    def _prepare(self, task: Task, tests: bytes | Malformed) -> Program | Malformed:
        return tests if isinstance(tests, Malformed) else prepare(task, tests)

    def _run_all(self, programs: list[Program]) -> dict[Program, Verdict]:
        hindrance = self._isolator.available()
        if hindrance is not None:
            raise IsolatorError(hindrance)
        with ThreadPoolExecutor(self._workers) as threads:
            return dict(zip(programs, threads.map(self._run, programs), strict=True))

    def _run(self, program: Program) -> Verdict:
        outcome = self._isolator.run(program)
        is_correct = outcome.ending is Ending.PASSED
        return Verdict(is_correct, outcome.ending.value, outcome.seconds)
