import pytest

from fusion.errors import CrucibleError
from fusion.verification import VERIFIERS, Limits, Task, Verdict, Verifiers, verify


def test_verdicts_come_in_the_order_of_the_tasks_whatever_their_verifiers() -> None:
    tasks = [
        Task("exact", "a", "a"),
        Task("choice", "B", "A"),
        Task("math", "7", "7"),
        Task("exact", "a", "b"),
    ]
    verdicts = verify(tasks)
    assert [v.correct for v in verdicts if isinstance(v, Verdict)] == [True, False, True, False]


def test_unknown_verifier_is_refused_by_name() -> None:
    with pytest.raises(CrucibleError, match="'maths' is unknown: name one of"):
        verify([Task("maths", "1", "1")])


def test_each_verifier_has_a_version_of_its_own() -> None:
    with Verifiers(Limits()) as verifiers:
        versions = [verifiers.version(name) for name in VERIFIERS]
    assert len(set(versions)) == len(VERIFIERS)


def test_empty_batch_is_an_empty_list() -> None:
    assert verify([]) == []
