"""The one entry to verification: a batch of tasks in, a verdict for each out."""

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from fusion.errors import BadInputError
from fusion.verification.choice import verify_choice
from fusion.verification.code.verifier import CodeVerifier
from fusion.verification.comparing import ComparingVerifier
from fusion.verification.exact import verify_exact
from fusion.verification.math import MathVerifier
from fusion.verification.task import Limits, Malformed, Task, Verdict


class Verifier(Protocol):
    """Checks replies of one kind; `version` changes whenever a verdict could."""

    @property
    def version(self) -> str:
        """Part of the key of every score that the verifier makes."""
        ...

    def verify(self, tasks: Sequence[Task]) -> list[Verdict | Malformed]:
        """Judges every task, in order; a row that cannot be judged comes back as Malformed."""
        ...

    def close(self) -> None:
        """Ends the processes that the verifier keeps; it can be called twice."""
        ...


VERIFIERS: Mapping[str, Callable[[Limits], Verifier]] = {
    "choice": lambda _: ComparingVerifier("choice-2", verify_choice),
    "code": CodeVerifier,
    "exact": lambda _: ComparingVerifier("exact-2", verify_exact),
    "math": MathVerifier,
}


class Verifiers:
    """Verifiers made when first needed and kept between batches, as the maths pool starts slowly.

    Calls from several threads are allowed.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._made: dict[str, Verifier] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def verify(self, tasks: Sequence[Task]) -> list[Verdict | Malformed]:
        """Judges every task, in order, grouped by verifier.

        Raises:
            CrucibleError: a verifier is unknown, or code is to be run and no isolator is here.
        """
        places: dict[str, list[int]] = {}
        for place, task in enumerate(tasks):
            places.setdefault(task.verifier, []).append(place)
        verifiers = {name: self._verifier(name) for name in places}
        results: dict[int, Verdict | Malformed] = {}
        for name, group in places.items():
            verdicts = verifiers[name].verify([tasks[place] for place in group])
            results.update(zip(group, verdicts, strict=True))
        return [results[place] for place in range(len(tasks))]

    def version(self, name: str) -> str:
        """The version of the named verifier, for the key of the scores it makes."""
        return self._verifier(name).version

    def close(self) -> None:
        """Ends every process that a verifier keeps."""
        for verifier in self._made.values():
            verifier.close()

    def _verifier(self, name: str) -> Verifier:
        if name not in VERIFIERS:
            known = ", ".join(VERIFIERS)
            raise BadInputError(f"verifier {name!r} is unknown: name one of {known}")
        if name not in self._made:
            self._made.setdefault(name, VERIFIERS[name](self._limits))
        return self._made[name]


def verify(tasks: Sequence[Task], limits: Limits | None = None) -> list[Verdict | Malformed]:
    """Judges one batch and ends every process it started; see `Verifiers` for many batches."""
    with Verifiers(limits) as verifiers:
        return verifiers.verify(tasks)
