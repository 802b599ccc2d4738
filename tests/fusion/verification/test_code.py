import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.verification import Limits, Malformed, Task, Verdict, Verifiers, verify
from fusion.verification.code.isolator import Ending, IsolatorError, Outcome, Program
from fusion.verification.code.program import compile_tests, extract_code
from fusion.verification.code.verifier import CodeVerifier
from tests.fusion.verification.published import published_rows

TESTS = "assert add(1, 2) == 3\nassert add(0, 0) == 0\n"
TUPLE_CHECK = "def check(candidate):\n    assert (candidate(1, 2) == 3, 'sum')\n"
RIGHT = "def add(a, b):\n    return a + b\n"


Judge = Callable[..., Verdict]


@pytest.fixture
def judge(sandbox: None, verifiers: Verifiers) -> Judge:
    def judge_one(response: str, tests: str = TESTS, entry_point: str = "add") -> Verdict:
        task = Task("code", response, tests=tests, entry_point=entry_point)
        (verdict,) = verifiers.verify([task])
        assert isinstance(verdict, Verdict), verdict
        return verdict

    return judge_one


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (RIGHT, "equal"),
        (f"Sure:\n```python\n{RIGHT}```\nDone.", "equal"),
        (RIGHT + "if __name__ == '__main__':\n    print(add(*map(int, input().split())))", "equal"),
        ("from __future__ import annotations\nimport math\n" + RIGHT, "equal"),
        (RIGHT + "print('x' * 10_000_000)", "equal"),
        ("def add(a, b):\n    return a - b", "tests_failed"),
        ("def add(a, b:\n", "syntax_error"),
        ("x = '\x00'", "syntax_error"),
        ("(" * 100_000, "syntax_error"),
        ("def sub(a, b): return a - b", "no_entry_point"),
        ("", "no_entry_point"),
        ("raise ValueError", "no_entry_point"),
        (RIGHT + "raise ValueError", "code_failed"),
        ("def add(a, b): return [0] * 10**12", "memory"),
        (RIGHT + "import sys\nsys.exit(0)", "exited"),
    ],
)
def test_reason_tells_how_a_program_ended(judge: Judge, response: str, reason: str) -> None:
    verdict = judge(response)
    assert (verdict.correct, verdict.reason) == (reason == "equal", reason)


def test_program_sees_standard_library_classes_and_dataclasses(judge: Judge) -> None:
    response = (
        "import collections, dataclasses, decimal, hashlib, heapq, json, pickle, re, typing\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int\n"
        "def copy(p): return pickle.loads(pickle.dumps(p))\n"
    )
    assert judge(response, "assert copy(Point(3)) == Point(3)", "copy").correct


def test_check_of_the_tests_is_called_with_the_entry_point(judge: Judge) -> None:
    tests = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
    assert judge(RIGHT, tests).correct
    assert judge("def add(a, b): return 0", tests).reason == "tests_failed"
    assert judge(RIGHT, tests + "check(add)\n").correct


def test_entry_point_may_be_a_method(judge: Judge) -> None:
    response = "class Solution:\n    def add(self, a, b): return a + b\n"
    tests = "def check(candidate):\n    assert candidate(1, 2) == 3\n"
    assert judge(response, tests, "Solution().add").correct
    assert judge(RIGHT, tests, "Solution().add").reason == "no_entry_point"


def test_code_and_tests_share_what_they_define(judge: Judge) -> None:
    response = "calls = []\ndef add(a, b):\n    calls.append(a)\n    return Sum(a, b).value\n"
    tests = (
        "class Sum:\n    def __init__(self, a, b): self.value = a + b\n"
        "assert add(1, 2) == 3\nassert calls == [1]\n"
    )
    assert judge(response, tests).correct


def test_code_that_names_a_helper_like_a_builtin_keeps_it_and_its_tests_keep_theirs(
    judge: Judge,
) -> None:
    response = "def sum(a, b): return a + b\ndef add(a, b): return sum(a, b)\nlist = 5\n"
    assert judge(response, TESTS + "assert sum(list((1, 2))) == 3").correct


def test_tests_that_mock_work(judge: Judge) -> None:
    response = "def add(a, b): return a + b + len(input())"
    tests = "from unittest import mock\nwith mock.patch('builtins.input', return_value=''):\n"
    assert judge(response, tests + "    assert add(1, 2) == 3").correct


def test_tests_that_replace_stdin_and_read_stdout_work(judge: Judge) -> None:
    tests = (
        "import contextlib, io, sys\nsys.stdin = io.StringIO('3 4')\nout = io.StringIO()\n"
        "with contextlib.redirect_stdout(out):\n    main()\nassert out.getvalue() == '7\\n'\n"
    )
    response = "def main():\n    print(sum(map(int, input().split())))\n"
    assert judge(response, tests, "main").correct


@pytest.mark.usefixtures("sandbox")
def test_a_program_too_large_to_be_compiled_within_the_memory_is_no_syntax_error() -> None:
    task = Task("code", "x=1\n" * 150_000 + RIGHT, tests=TESTS, entry_point="add")
    (verdict,) = verify([task], Limits(code_memory_mib=128))
    assert isinstance(verdict, Verdict)
    assert (verdict.correct, verdict.reason) == (False, "memory")


@pytest.mark.usefixtures("sandbox")
def test_time_limit_ends_a_program() -> None:
    tasks = [Task("code", "def add(a, b):\n    while True: pass", tests=TESTS, entry_point="add")]
    start = time.monotonic()
    (verdict,) = verify(tasks, Limits(code_timeout_s=1))
    assert isinstance(verdict, Verdict)
    assert (verdict.correct, verdict.reason) == (False, "timeout")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("tests", "entry_point", "complaint"),
    [
        (None, "add", "no tests"),
        ("  ", "add", "no tests"),
        ("assert add(1", "add", "do not compile"),
        ("x = '\x00'", "add", "do not compile"),
        ("return 5", "add", "do not compile"),
        ("def check(candidate): pass", None, "give the entry point"),
        ("assert True", "no name", "no Python name"),
        ("42", "add", "check nothing"),
        ("# to do", "add", "check nothing"),
        ("import math\nx = 1", "add", "check nothing"),
        ("def check(candidate): pass", "add", "check nothing"),
        ("def test_add():\n    assert add(1, 2) == 3\n", "add", "check nothing"),
        ("assert (add(1, 2) == 3, 'sum')", "add", "check nothing"),
        (f"{TUPLE_CHECK}check(add)", "add", "check nothing"),
    ],
)
def test_unusable_tests_are_malformed_and_not_a_wrong_answer(
    tests: str | None, entry_point: str | None, complaint: str
) -> None:
    (result,) = verify([Task("code", RIGHT, tests=tests, entry_point=entry_point)])
    assert isinstance(result, Malformed)
    assert complaint in result.detail


@pytest.mark.parametrize(
    "tests",
    [
        "add(1, 2)",
        "if not add: raise ValueError",
        "for n in [1]:\n    assert n",
        "def check(candidate):\n    assert candidate(1, 2) == 3\n",
        "class Case:\n    assert add",
        "assert (add(1, 2) == 3, 'sum')\nassert ()",
    ],
)
def test_tests_that_can_fail_are_no_idle_ones(tests: str) -> None:
    assert isinstance(compile_tests(tests, "add"), bytes)


@pytest.mark.filterwarnings("error")
def test_an_assertion_that_cannot_fail_is_compiled_without_a_warning() -> None:
    tests = "assert add(1, 2) == 3\nassert (add(0, 0) == 0, 'zero')"
    assert isinstance(compile_tests(tests, "add"), bytes)


@pytest.mark.parametrize(
    "response",
    [
        "add(1, 2)",
        "def other():\n    def add(a, b): return a + b\n    add = 1",
        "class Other:\n    def add(self, a, b): return a + b",
        "import operator.add as plus\nother.add = 3",
        "while True: pass",
    ],
)
def test_code_that_cannot_define_the_entry_point_is_not_run(judge: Judge, response: str) -> None:
    assert judge(response).reason == "no_entry_point"


@pytest.mark.parametrize(
    "response",
    [
        "from operator import add",
        "import operator\nadd = operator.add",
        "from operator import *",
        "exec('def add(a, b): return a + b')",
        "globals()['add'] = lambda a, b: a + b",
        "import sys\nsetattr(sys.modules[__name__], 'add', lambda a, b: a + b)",
        "if True:\n    try:\n        add = None\n    finally:\n        def add(a, b): return a + b",
        "def define():\n    global add\n    add = lambda a, b: a + b\ndefine()",
        "plus, add = 0, lambda a, b: a + b",
        "(add := lambda a, b: a + b)",
        "for add in [lambda a, b: a + b]: pass",
        "match [lambda a, b: a + b]:\n    case [add]: pass",
        "class add:\n    def __new__(cls, a, b): return a + b",
    ],
)
def test_code_that_defines_the_entry_point_in_any_way_is_run(judge: Judge, response: str) -> None:
    assert judge(response).correct


@pytest.mark.parametrize(
    ("response", "tests"),
    [
        ("from fractions import Fraction\ndef add(a, b): return Fraction(3)", "add(1, 2) == 3"),
        ("from collections import Counter\ndef add(a, b): return Counter('ab')",
         "add(1, 2) == {'a': 1, 'b': 1}"),
        ("from decimal import Decimal\ndef add(a, b): return Decimal(3)", "add(1, 2) - 3 == 0"),
        ("import enum\nclass N(enum.IntEnum):\n    THREE = 3\ndef add(a, b): return N.THREE",
         "add(1, 2) == 3"),
        ("import typing\nclass P(typing.NamedTuple):\n    x: int\ndef add(a, b): return P(a + b)",
         "add(1, 2) == (3,) and add(1, 2).x == 3"),
        ("import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\n"
         "def add(a, b): return P(a + b)", "add(1, 2) != None and add(1, 2).x == 3"),
        ("class P:\n    def __init__(self, x): self.x = x\n"
         "    def __eq__(self, other): return self.x == other.x\ndef add(a, b): return P(a + b)",
         "add(1, 2) == P(3) and add(1, 2) != P(4)"),
        ("def add(a, b):\n    yield a\n    yield b", "list(add(1, 2)) == [1, 2]"),
        ("x = []\ndef add(a, b):\n    x.append(x)\n    return x", "add(1, 2)[0] is add(1, 2)"),
        ("x = []\nx.append(x)\ndef add(a, b): return x", "add(1, 2) != [3]"),
    ],
)  # fmt: skip
def test_answer_of_any_honest_type_is_compared(judge: Judge, response: str, tests: str) -> None:
    assert judge(response, f"assert {tests}").correct


def test_what_tests_patch_themselves_stays_patched_over_calls(judge: Judge) -> None:
    response = "import time\ndef add(a, b): return a + b + time.time()"
    tests = "import time\ntime.time = lambda: 0\nassert add(1, 2) == 3\nassert add(1, 3) == 4\n"
    assert judge(response, tests).correct


class Recorder:
    """An isolator that runs nothing and counts what it was given."""

    def __init__(self, hindrance: str | None = None) -> None:
        self.hindrance = hindrance
        self.programs: list[Program] = []

    def available(self) -> str | None:
        return self.hindrance

    def run(self, program: Program) -> Outcome:
        self.programs.append(program)
        return Outcome(Ending.PASSED, b"", 0.0)


def test_identical_programs_of_a_batch_run_once() -> None:
    recorder = Recorder()
    task = Task("code", RIGHT, tests=TESTS, entry_point="add")
    other = Task("code", RIGHT, tests=TESTS + "assert True", entry_point="add")
    verdicts = CodeVerifier(Limits(workers=2), recorder).verify([task, other, task, task])
    assert len(verdicts) == 4
    assert len(recorder.programs) == 2


def test_without_an_isolator_nothing_runs_and_the_error_says_what_to_do() -> None:
    recorder = Recorder("install bubblewrap")
    verifier = CodeVerifier(Limits(), recorder)
    with pytest.raises(IsolatorError, match="install bubblewrap"):
        verifier.verify([Task("code", RIGHT, tests=TESTS, entry_point="add")])
    assert recorder.programs == []


def test_machine_without_bubblewrap_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(IsolatorError, match="apt-get install bubblewrap"):
        verify([Task("code", RIGHT, tests=TESTS, entry_point="add")])


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("x = 1", "x = 1"),
        ("```python\nx = 1\n```\n```python\ny = 2\n```", "x = 1\n"),
        ("```bash\nls\n```\n```py\nx = 1\n```", "x = 1\n"),
        ("Text\n```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("```python\ns = '```'\n```", "s = '```'\n"),
        ("```python3.11\nx = 1\n```\nThat is it.", "x = 1\n"),
        ("```Python 3\nx = 1\n```\nThat is it.", "x = 1\n"),
        ("```{python}\nx = 1\n```\nThat is it.", "x = 1\n"),
        ("```{.py .numberLines}\nx = 1\n```", "x = 1\n"),
        ("```python title='x.py'\r\nx = 1\r\n```", "x = 1\r\n"),
        ("```\nx = 1\n```\n```python\ny = 2\n```", "x = 1\n"),
        ("```pycon\n>>> x\n```\n```\nx = 1\n```", "x = 1\n"),
        ("```code\nx = 1\n```\nThat is it.", "x = 1\n"),
        ("~~~python\nx = 1\n~~~", "x = 1\n"),
        ("````python\nx = 1\n```\n````", "x = 1\n```\n"),
        ("1. So:\n\n   ```python\n   if x:\n       y = 1\n   ```", "if x:\n    y = 1\n"),
        ("Use ```x = 1``` here", "Use ```x = 1``` here"),
    ],
)
def test_code_is_the_first_block_of_python_or_of_no_language_or_the_whole_reply(
    reply: str, code: str
) -> None:
    assert extract_code(reply) == code


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="`"), max_size=50))
def test_fenced_code_is_found_whatever_stands_behind_it(after: str, code: str) -> None:
    assert extract_code(f"```python\n{code}\n```\n{after}") == f"{code}\n"


@given(st.text(), st.text(max_size=10))
def test_any_tests_compile_or_are_malformed(tests: str, entry_point: str) -> None:
    assert isinstance(compile_tests(tests, entry_point), bytes | Malformed)


def humaneval_tasks(num_rows: int | None) -> tuple[list[Task], list[Task]]:
    """Each canonical solution, and the same with its last return giving None."""
    rows = published_rows("humaneval.jsonl")[:num_rows]
    right, wrong = [], []
    for row in rows:
        code = row["prompt"] + row["canonical_solution"]
        broken = re.sub(r"(.*)\breturn\b.*?\Z", r"\1return None\n", code, flags=re.DOTALL)
        for bucket, source in ((right, code), (wrong, broken)):
            reply = f"Here it is:\n```python\n{source}\n```\n"
            bucket.append(Task("code", reply, tests=row["test"], entry_point=row["entry_point"]))
    return right, wrong


def check_humaneval(verifiers: Verifiers, num_rows: int | None) -> None:
    right, wrong = humaneval_tasks(num_rows)
    for tasks, expected in ((right, True), (wrong, False)):
        verdicts = verifiers.verify(tasks)
        assert [
            (task.entry_point, verdict)
            for task, verdict in zip(tasks, verdicts, strict=True)
            if not isinstance(verdict, Verdict) or verdict.correct is not expected
        ] == []


@pytest.mark.usefixtures("sandbox")
def test_humaneval_slice_passes_canonical_and_fails_broken_solutions(verifiers: Verifiers) -> None:
    check_humaneval(verifiers, 20)


@pytest.mark.soak
@pytest.mark.usefixtures("sandbox")
def test_humaneval_passes_every_canonical_and_fails_every_broken_solution(
    verifiers: Verifiers,
) -> None:
    check_humaneval(verifiers, None)
