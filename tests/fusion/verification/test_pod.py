"""The pod as isolator: hostile programs again, without namespaces between them and the machine."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from fusion.verification import Limits, Task
from fusion.verification.code import seccomp
from fusion.verification.code.interpreter import Interpreter, find_interpreter
from fusion.verification.code.isolator import IsolatorError
from fusion.verification.code.pod import Pod
from fusion.verification.code.verifier import CodeVerifier
from tests.fusion.verification.test_hostile import (
    ESCAPE,
    ESCAPES,
    FORGERIES,
    HARMLESS,
    HARMS,
    LIMITS,
    WRONG,
    Run,
    check_harm,
    marked,
    runner,
)

# What the files of the image hold is not kept from a program, only that they are the image's.
# A program of its own would first have to be written to a file.
VISIBLE = {"files_outside", "installed_packages", "symlinks_out", "processes_of_others", "tracing"}
SYSTEM_PYTHON = Interpreter("/usr/bin/python3.11", (), (), "/usr/lib/python3.11")
SECRETS_OF_OTHERS = {
    "environment_of_the_worker": (
        "import os\nreached = False\nfor pid in (os.getppid(), 1):\n"
        "    for name in ('environ', 'mem', 'maps', 'fd'):\n        try:\n"
        "            path = f'/proc/{pid}/{name}'\n"
        "            os.listdir(path) if name == 'fd' else open(path, 'rb').read(64)\n"
        "            reached = True\n        except OSError: pass" + ESCAPE
    ),
    "own_memory": (
        "reached = False\nfor name in ('/proc/self/mem', '/proc/thread-self/mem'):\n    try:\n"
        "        open(name, 'rb').close()\n        reached = True\n    except OSError: pass"
        + ESCAPE
    ),
    "own_memory_through_a_child": (
        "import os\nreached = False\npid = os.fork()\nif pid == 0:\n    try:\n"
        "        open(f'/proc/{os.getppid()}/mem', 'rb').close()\n        os._exit(7)\n"
        "    except OSError: os._exit(0)\nreached = os.waitpid(pid, 0)[1] != 0" + ESCAPE
    ),
    "a_byte_in_a_file": (
        "import os\nreached = False\nfor folder in ('/tmp', '/dev/shm', '/var/tmp', '.'):\n"
        "    path = f'{folder}/left-{os.getpid()}'\n    try:\n        file = open(path, 'wb')\n"
        "        os.unlink(path)\n        file.write(b'x')\n        file.flush()\n"
        "        reached = True\n    except OSError: pass" + ESCAPE
    ),
    "unix_sockets": (
        "import socket\nreached = False\ntry:\n    socket.socket(socket.AF_UNIX)\n"
        "    reached = True\nexcept OSError: pass" + ESCAPE
    ),
    "another_session": (
        "import os\nreached = False\nfor leave in (os.setsid, lambda: os.setpgid(0, 0)):\n"
        "    if os.fork() == 0:\n        try: leave()\n        except OSError: os._exit(0)\n"
        "        os._exit(7)\n    reached = reached or os.wait()[1] != 0" + ESCAPE
    ),
}


def _pod(limits: Limits) -> Pod:
    """A pod on an interpreter that every user may read, as an image's is."""
    if os.geteuid() != 0:
        pytest.skip("NO PROGRAM WAS RUN: the pod isolator starts as root")
    own = find_interpreter()
    parents = Path(own.stdlib).parents
    is_open = all(parent.stat().st_mode & 0o001 for parent in parents)
    if not is_open and not os.access(SYSTEM_PYTHON.executable, os.X_OK):
        pytest.skip(f"NO PROGRAM WAS RUN: other users cannot read {own.stdlib}")
    return Pod(limits, own if is_open else SYSTEM_PYTHON)


def _runner(limits: Limits) -> Run:
    pod = marked(_pod(limits))
    assert pod.available() is None
    return runner(pod)


@pytest.fixture(scope="module")
def run() -> Run:
    return _runner(LIMITS)


@pytest.fixture(scope="module")
def run_briefly() -> Run:
    return _runner(replace(LIMITS, code_timeout_s=1))


def test_right_answer_passes_and_wrong_one_does_not(run: Run) -> None:
    assert run("import json, re, decimal\ndef add(a, b): return a + b").correct
    assert run("def add(a, b): return a - b").reason == "tests_failed"


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_pass_is_no_pass(run: Run, name: str) -> None:
    tests = "def check(candidate):\n    got = candidate(1, 2)\n    assert got == 3\n    del got\n"
    assert not run(FORGERIES[name], tests).correct


@pytest.mark.parametrize("name", [*sorted(set(ESCAPES) - VISIBLE), *SECRETS_OF_OTHERS])
def test_program_reaches_nothing_but_the_image(
    run: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUCIBLE_SECRET_TOKEN", "hush")
    verdict = run({**ESCAPES, **SECRETS_OF_OTHERS}[name])
    assert (verdict.correct, verdict.reason) == (False, "tests_failed")


@pytest.mark.parametrize("name", HARMS)
def test_harmful_program_ends_in_time_and_leaves_nothing(run_briefly: Run, name: str) -> None:
    check_harm(run_briefly, name, HARMLESS - {"daemon_left_behind"})  # it may leave no session


def test_programs_side_by_side_are_different_users() -> None:
    pod = _pod(LIMITS)
    with pod.sandbox() as one, pod.sandbox() as other:
        assert 0 not in (one.uid, other.uid)
        assert one.uid != other.uid


def test_who_is_not_root_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    verifier = CodeVerifier(Limits(isolator="pod"))
    with pytest.raises(IsolatorError, match="starts as root of its pod"):
        verifier.verify([Task("code", WRONG, tests="assert add(1, 2) == 3", entry_point="add")])


def test_a_pod_whose_filter_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = _pod(Limits())
    weak = seccomp.filter_program()
    monkeypatch.setattr(seccomp, "filter_program", lambda confined: weak)
    assert "in a pod that keeps users apart" in (pod.available() or "")


def test_pod_is_used_only_where_it_is_named() -> None:
    assert not isinstance(CodeVerifier(Limits())._isolator, Pod)
    assert isinstance(CodeVerifier(Limits(isolator="pod"))._isolator, Pod)
