"""Programs that try to pass without an answer, to get out, or to do harm. None may succeed."""

import secrets
import subprocess
import time
from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path

import pytest

from fusion.verification import Limits, Task, Verdict
from fusion.verification.code.bubblewrap import Bubblewrap
from fusion.verification.code.runner import Runner
from fusion.verification.code.verifier import CodeVerifier

LIMITS = Limits(code_timeout_s=3, code_memory_mib=256, workers=1)
WRONG = "\ndef add(a, b): return None\n"
RIGHT = "\ndef add(a, b): return a + b\n"
# In the command line of every process that a program of these tests starts.
MARK = f"hostile-{secrets.token_hex(8)}"
ESCAPE = "\ndef add(a, b): return 3 if reached else None\n"

# Made to be equal to whatever the tests expect, and to nothing that shows it.
AGREEABLE = "class Agreeable:\n    __eq__ = lambda s, o: type(o) is not object\n"

# Each tries to make wrong code pass: `add` never returns the right sum.
FORGERIES = {
    "sys_exit_zero": "import sys; sys.exit(0)" + WRONG,
    "os_exit_zero": "import os; os._exit(0)" + WRONG,
    "os_exit_zero_in_the_tests": "import os\ndef add(a, b): os._exit(0)",
    "sys_exit_in_the_tests": "import sys\ndef add(a, b): sys.exit(0)",
    "exit_handler": "import atexit, os\natexit.register(lambda: os._exit(0))" + WRONG,
    "keyboard_interrupt": "def add(a, b): raise KeyboardInterrupt",
    "thread_that_exits": (
        "import os, threading\nthreading.Thread(target=lambda: os._exit(0)).start()" + WRONG
    ),
    "signal_handler_that_exits": (
        "import os, signal\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01)\ndef add(a, b):\n    while True: pass"
    ),
    "printed_verdict": "print('equal')\nprint('PASSED')\nprint('{\"correct\": true}')" + WRONG,
    "verdict_on_every_descriptor": (
        "import os\nfor fd in range(64):\n    for word in (b'equal', b'passed', b'\\n1\\n'):\n"
        "        try: os.write(fd, word + b'\\n')\n        except OSError: pass" + WRONG
    ),
    "random_bytes_on_every_descriptor": (
        "import os\nfor fd in range(64):\n"
        "    try: os.write(fd, os.urandom(32))\n    except OSError: pass" + WRONG
    ),
    "secret_read_again_from_stdin": (
        "import os\nos.set_blocking(0, False)\nsecret = os.read(0, 1 << 20)\n"
        "for fd in range(64):\n    try: os.write(fd, secret[-33:])\n    except OSError: pass"
        + WRONG
    ),
    "patched_builtins": (
        "import builtins\nfor name in ('all', 'any', 'isinstance', 'abs', 'len', 'exec'):\n"
        "    setattr(builtins, name, lambda *a, **k: True)\n"
        "class Quiet(BaseException): pass\nbuiltins.AssertionError = Quiet" + WRONG
    ),
    "builtins_shadowed": (
        "def isinstance(*a): return True\ndef _crucible_plain(value):\n"
        "    class Anything(int):\n        __eq__ = lambda s, o: True\n"
        "    return Anything()" + WRONG
    ),
    "guard_patched": (
        "import builtins\nbuiltins.type = lambda x: int\nclass Anything:\n"
        "    def __eq__(self, other): return True\ndef add(a, b): return Anything()"
    ),
    "patched_import": (
        "import builtins, os\nbuiltins.__import__ = lambda *a, **k: os._exit(0)" + WRONG
    ),
    "equal_to_everything": (
        "class Any(int):\n    __eq__ = lambda s, o: True\n    __hash__ = None\n"
        "def add(a, b): return Any()"
    ),
    "equal_to_everything_of_the_library": (
        "from unittest.mock import ANY\ndef add(a, b): return ANY"
    ),
    "equal_to_all_but_a_bare_object": AGREEABLE + "def add(a, b): return Agreeable()",
    "number_equal_to_all_but_a_bare_object": (
        "class Agreeable(int):\n    __eq__ = lambda s, o: type(o) is not object\n"
        "    __hash__ = None\ndef add(a, b): return Agreeable()"
    ),
    "equality_hidden_by_a_metaclass": (
        "class Meta(type):\n    __mro__ = property(lambda cls: (object,))\n"
        "    __dict__ = property(lambda cls: {})\n    __name__ = property(lambda cls: 'int')\n"
        "class Agreeable(metaclass=Meta):\n    __eq__ = lambda s, o: type(o) is not object\n"
        "def add(a, b): return Agreeable()"
    ),
    "equality_behind_a_proxy": (
        "import weakref\n" + AGREEABLE + "one = Agreeable()\n"
        "def add(a, b): return weakref.proxy(one)"
    ),
    "guard_replaced_in_the_builtins": (
        AGREEABLE + "def add(a, b):\n    __builtins__['_crucible_plain'] = lambda v: v\n"
        "    return Agreeable()"
    ),
    "guard_shadowed_by_a_global": (
        AGREEABLE + "def add(a, b):\n    globals()['_crucible_plain'] = lambda v: v\n"
        "    return Agreeable()"
    ),
    "own_check": "def check(candidate): pass" + WRONG,
    "line_jump_by_tracing": (
        "import sys\ndef jump(frame, event, arg):\n"
        "    if event == 'line': frame.f_lineno = frame.f_code.co_firstlineno + 3\n"
        "    return jump\n"
        "def add(a, b):\n    sys.settrace(jump)\n    sys._getframe(1).f_trace = jump\n"
    ),
    "secret_sought_by_the_collector": (
        "import gc\nfor thing in gc.get_objects():\n"
        "    if type(thing).__name__ == 'partial' and isinstance(thing.args[-1], bytes): thing()"
        + WRONG
    ),
    "secret_sought_in_frames": (
        "import os, sys\ndef walk():\n    frame = sys._getframe()\n    while frame:\n"
        "        for scope in (frame.f_locals, frame.f_globals):\n"
        "            for thing in list(scope.values()):\n"
        "                items = thing if isinstance(thing, (list, tuple)) else [thing]\n"
        "                for item in items:\n"
        "                    if isinstance(item, bytes):\n"
        "                        for fd in range(3, 64):\n"
        "                            try: os.write(fd, item)\n"
        "                            except OSError: pass\n"
        "                    if type(item).__name__ == 'partial': item()\n"
        "        frame = frame.f_back\n"
        "walk()\ndef add(a, b): walk()"
    ),
    "secret_sought_in_tracebacks": (
        "import os\ndef add(a, b):\n    try: 1 / 0\n    except ZeroDivisionError as error:\n"
        "        frame = error.__traceback__.tb_frame\n        while frame.f_back:\n"
        "            frame = frame.f_back\n        for thing in frame.f_globals.values():\n"
        "            if type(thing).__name__ == 'partial': thing()"
    ),
    "harness_called_again": (
        "import __main__, os\ntry:\n    __main__.report(b'equal')\n"
        "    for step in __main__.steps([]): step()\nexcept BaseException: pass" + WRONG
    ),
    "raw_memory": "import ctypes\nctypes.string_at(id(b''), 64)" + WRONG,
    "hook_removed": (
        "import sys, __main__\n__main__.deny = lambda *a: None\nsys.addaudithook(lambda *a: None)\n"
        "import gc; gc.get_objects()" + WRONG
    ),
    "hook_disarmed_through_its_frame": (
        "import gc\ntry: gc.get_objects()\nexcept BaseException as error:\n"
        "    frame = error.__traceback__.tb_next.tb_frame\n"
        "    frame.f_globals['PermissionError'] = type('Q', (), {})\n"
        "    frame.f_locals.clear()\n"
        "gc.get_objects()" + WRONG
    ),
    "forked_child_goes_on": ("import os\nif os.fork(): os._exit(0)" + WRONG),
}

# Python has no call for ptrace: this is a program of a few instructions, PTRACE_TRACEME and an
# exit with 1 where that was granted, else 0.
TRACER = (
    "import os, struct\n"
    "machine, code = {\n"
    "    'x86_64': (62, 'b86500000031ff31f631d24d31d20f0585c00f94c00fb6f8b83c0000000f05'),\n"
    "    'aarch64': (183, 'a80e80d2000080d2010080d2020080d2030080d2010000d4'\n"
    "        '1f0000f1e0179f9aa80b80d2010000d4'),\n"
    "}[os.uname().machine]\n"
    "code = bytes.fromhex(code)\n"
    "size = 120 + len(code)\n"
    "elf = b'\\x7fELF\\2\\1\\1' + bytes(9)\n"
    "elf += struct.pack('<HHIQQQIHHHHHH', 2, machine, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)\n"
    "elf += struct.pack('<IIQQQQQQ', 1, 5, 0, 0x400000, 0x400000, size, size, 0x1000) + code\n"
)
NEAR = "import math\ngot = add(1, 2)\nassert math.fabs(got - 3) < 1e-6\n"
CASES = (
    "import unittest\nclass Case(unittest.TestCase):\n"
    "    def runTest(self):\n        got = add(1, 2)\n        self.assertEqual(got, 3)\n"
    "Case().debug()\n"
)
# Each with the tests that it tries to deceive.
DECEITS = {
    "item_equal_to_everything": (
        "from unittest.mock import ANY\ndef add(a, b): return [ANY]",
        "assert add(1, 2) == [3]",
    ),
    "item_deep_inside": (
        "from unittest.mock import ANY\ndef add(a, b): return [[({'x': [ANY]},)]]",
        "assert add(1, 2) == [[({'x': [3]},)]]",
    ),
    "agreeable_item": (
        AGREEABLE + "def add(a, b): return [Agreeable()]",
        "assert add(1, 2) == [3]",
    ),
    "agreeable_item_of_a_generator": (
        AGREEABLE + "def add(a, b): yield Agreeable()",
        "assert list(add(1, 2)) == [3]",
    ),
    "agreeable_item_of_a_list_of_its_own": (
        AGREEABLE + "class Own(list): pass\ndef add(a, b): return Own([Agreeable()])",
        "assert add(1, 2) == [3]",
    ),
    "agreeable_attribute": (
        AGREEABLE + "class Result: sum = Agreeable()\ndef add(a, b): return Result()",
        "assert add(1, 2).sum == 3",
    ),
    "agreeable_to_a_test_case": (AGREEABLE + "def add(a, b): return Agreeable()", CASES),
    "difference_of_its_own": (
        "class Near:\n    __sub__ = lambda s, o: 0\ndef add(a, b): return Near()",
        NEAR,
    ),
    "class_called_as_the_entry_point": (
        "class add:\n    def __init__(s, a, b): pass\n    __eq__ = lambda s, o: o == 3 or True",
        "assert add(1, 2) == 3",
    ),
    "module_patched": ("import math\nmath.fabs = lambda x: 0\ndef add(a, b): return 0", NEAR),
    "module_patched_by_the_call": (
        "import math\ndef add(a, b):\n    math.fabs = lambda x: 0\n    return 0",
        NEAR,
    ),
    "module_planted": (
        "import sys, types\nsys.modules['math'] = types.SimpleNamespace(fabs=lambda x: 0)\n"
        "def add(a, b): return 0",
        NEAR,
    ),
    "builtin_shadowed_by_the_call": (
        "def add(a, b):\n    globals()['abs'] = lambda x: 0\n    return 0",
        "got = add(1, 2)\nassert abs(got - 3) < 1e-6",
    ),
    "builtin_patched_by_the_call": (
        "def add(a, b):\n    __builtins__['abs'] = lambda x: 0\n    return 0",
        "got = add(1, 2)\nassert abs(got - 3) < 1e-6",
    ),
    "class_of_a_module_patched": (
        "import unittest\nunittest.TestCase.assertEqual = lambda *a: None" + WRONG,
        CASES,
    ),
    "class_of_a_module_patched_by_the_call": (
        "import unittest\ndef add(a, b): unittest.TestCase.assertEqual = lambda *a: None",
        CASES,
    ),
    "method_hidden_in_a_class": (
        "import random\nrandom.Random.random = lambda s: 0\ndef add(a, b): return 0",
        "import random\nassert add(1, 2) == random.Random(1).random()",
    ),
}

# Each sets `reached` when it gets at something it must not, and only then passes.
ESCAPES = {
    "network": (
        "import socket\nreached = False\ntry:\n    socket.create_connection(('1.1.1.1', 53), 1)\n"
        "    reached = True\nexcept OSError: pass" + ESCAPE
    ),
    "host_loopback": (
        "import socket\nreached = False\nfor port in (22, 80, 6379, 8000, 8265):\n    try:\n"
        "        socket.create_connection(('127.0.0.1', port), 1)\n        reached = True\n"
        "    except OSError: pass" + ESCAPE
    ),
    "files_outside": (
        "import os\nreached = False\nfor path in ('/etc/passwd', '/etc/hostname', '/home',"
        " '/proc/self/status', '/sys', '/var', '/usr/bin/env', '/bin/sh', '/dev/vda'):\n"
        "    reached = reached or os.path.exists(path)" + ESCAPE
    ),
    "writing_outside": (
        "import os, sys\nreached = False\nfor folder in ('/', '/etc', '/usr', '/dev',"
        " os.path.dirname(sys.executable), os.path.dirname(os.__file__)):\n    try:\n"
        "        open(folder + '/planted', 'w').close()\n        reached = True\n"
        "    except OSError: pass" + ESCAPE
    ),
    "installed_packages": (
        "import os\nreached = False\nroot = os.path.dirname(os.__file__) + '/site-packages'\n"
        "reached = os.path.isdir(root) and bool(os.listdir(root))" + ESCAPE
    ),
    "symlinks_out": (
        "import os\nreached = False\nfor target in ('/etc/shadow', '/proc/1/environ', '/root/.ssh',"
        " '../../../../etc/passwd'):\n    os.symlink(target, 'link')\n    try:\n"
        "        os.stat('link')\n        reached = True\n    except OSError: pass\n"
        "    os.unlink('link')" + ESCAPE
    ),
    "environment_secrets": (
        "import os\nreached = any('SECRET' in key or 'TOKEN' in key for key in os.environ)"
        " or os.environ.get('HOME') is not None" + ESCAPE
    ),
    "processes_of_others": (
        "import os\nreached = os.path.exists('/proc/1') or os.getpid() > 50" + ESCAPE
    ),
    "root_rights": (
        "import os\nreached = os.getuid() == 0\ntry:\n    os.setuid(0)\n    reached = True\n"
        "except OSError: pass\ntry:\n    os.setgroups([0])\n    reached = True\n"
        "except OSError: pass\ntry:\n    os.chroot('/tmp')\n    reached = True\n"
        "except OSError: pass" + ESCAPE
    ),
    "limits_raised": (
        "import resource as r\nreached = False\nfor kind in (r.RLIMIT_AS, r.RLIMIT_NPROC):\n"
        "    try:\n        r.setrlimit(kind, (1 << 40, 1 << 40))\n        reached = True\n"
        "    except (OSError, ValueError): pass" + ESCAPE
    ),
    "uncounted_memory": (
        "import os\nreached = False\ntry:\n    os.memfd_create('x')\n    reached = True\n"
        "except OSError: pass" + ESCAPE
    ),
    "tracing": TRACER
    + (
        "open('/tmp/tracer', 'wb').write(elf)\nos.chmod('/tmp/tracer', 0o700)\npid = os.fork()\n"
        "if pid == 0: os.execv('/tmp/tracer', ['tracer'])\n"
        "status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "if status not in (0, 1): raise OSError('it did not run')\nreached = status == 1" + ESCAPE
    ),
    "device_nodes": (
        "import os, stat\nreached = False\ntry:\n"
        "    os.mknod('/tmp/disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0))\n    reached = True\n"
        "except OSError: pass" + ESCAPE
    ),
}

# Each only does harm, and then answers rightly; it must end in time and leave nothing.
HARMS = {
    "fork_bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "threads_without_end": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()"
    ),
    "memory_at_once": "x = bytearray(1 << 40)",
    "memory_bit_by_bit": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "memory_in_many_processes": (
        "import os, time\nfor _ in range(12):\n    if os.fork() == 0:\n"
        "        x = bytearray(b'x') * (100 << 20)\n        time.sleep(60)\ntime.sleep(60)"
    ),
    "endless_loop": "while True: pass",
    "endless_sleep_deaf_to_signals": (
        "import signal, time\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: time.sleep(1)"
    ),
    "loop_in_c": "x = 9 ** 9 ** 9",
    "endless_output": "while True: print('x' * 100_000)",
    "endless_errors": "import sys\nwhile True: sys.stderr.write('x' * 100_000)",
    "endless_words_on_the_report": (
        "import os\nwhile True:\n    for fd in range(3, 64):\n"
        "        try: os.write(fd, b'x' * 65536)\n        except OSError: pass"
    ),
    "large_file": "f = open('/tmp/f', 'wb')\nwhile True: f.write(b'x' * (1 << 20))",
    "many_files": (
        "n = 0\nwhile True:\n    n += 1\n    open(f'/tmp/{n}', 'wb').write(b'x' * (1 << 20))"
    ),
    "signals_to_everyone": (
        "import os, signal\nfor pid in (-1, 0, 1, os.getppid()):\n"
        "    try: os.kill(pid, signal.SIGKILL)\n    except OSError: pass"
    ),
    "signals_to_high_pids": (
        "import os\nfor pid in set(range(2, 70000)) - {os.getpid()}:\n"
        "    try: os.kill(pid, 9)\n    except OSError: pass"
    ),
    "crash": "def f(): f()\nimport sys\nsys.setrecursionlimit(1 << 30)\nf()",
    "daemon_left_behind": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        f"        os.execv(__import__('sys').executable, ['{MARK}', '-c',"
        " 'import time; time.sleep(600)'])\n    os._exit(0)\ntime.sleep(0.3)"
    ),
}

# Those whose harm comes to nothing, so that their right answer counts.
HARMLESS = {"signals_to_high_pids", "daemon_left_behind"}

pytestmark = pytest.mark.usefixtures("sandbox")


Run = Callable[..., Verdict]


@pytest.fixture(scope="module")
def run() -> Run:
    """Judges one program; the trial run of the isolator is behind it."""
    isolator = marked(Bubblewrap(LIMITS))
    assert isolator.available() is None
    return runner(isolator)


def marked(isolator: Runner) -> Runner:
    """The isolator, with a mark in the command line of all that it starts."""
    return replace(isolator, _harness=f"{isolator._harness}\n# {MARK}\n")


def runner(isolator: Runner) -> Run:
    verifier = CodeVerifier(isolator.limits, isolator)

    def run_one(source: str, tests: str = "assert add(1, 2) == 3") -> Verdict:
        start = time.monotonic()
        (verdict,) = verifier.verify([Task("code", source, tests=tests, entry_point="add")])
        assert time.monotonic() - start < isolator.limits.code_timeout_s + 2
        assert isinstance(verdict, Verdict)
        return verdict

    return run_one


def left_processes() -> list[int]:
    """The processes of programs of these tests that are still there, in whatever session."""
    found = []
    for folder in filter(lambda folder: folder.name.isdigit(), Path("/proc").iterdir()):
        try:
            if MARK.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def check_harm(run: Run, name: str, harmless: Set[str] = HARMLESS) -> None:
    """The program ends as it must, no bystander with it, and none of its processes is left."""
    with subprocess.Popen(["sleep", "60"]) as bystander:
        try:
            verdict = run(HARMS[name] + RIGHT)
            assert verdict.correct is (name in harmless), verdict.reason
            assert bystander.poll() is None
        finally:
            bystander.kill()
    deadline = time.monotonic() + 5  # what was killed may still be giving back its memory
    while left_processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_processes() == []


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_pass_is_no_pass(run: Run, name: str) -> None:
    tests = "def check(candidate):\n    got = candidate(1, 2)\n    assert got == 3\n    del got\n"
    assert not run(FORGERIES[name], tests).correct


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_pass_is_no_pass_against_plain_assertions(run: Run, name: str) -> None:
    assert not run(
        FORGERIES[name], "assert add(1, 2) == 3\nassert isinstance(add(1, 1), int)"
    ).correct


@pytest.mark.parametrize("name", DECEITS)
def test_tests_are_not_deceived(run: Run, name: str) -> None:
    assert run(*DECEITS[name]).reason == "tests_failed"


@pytest.mark.parametrize("name", ESCAPES)
def test_program_reaches_nothing_outside(
    run: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUCIBLE_SECRET_TOKEN", "hush")
    verdict = run(ESCAPES[name])
    assert (verdict.correct, verdict.reason) == (False, "tests_failed")


@pytest.mark.parametrize("name", HARMS)
def test_harmful_program_ends_in_time_and_leaves_nothing(run: Run, name: str) -> None:
    check_harm(run, name)


def test_the_processes_of_a_program_are_seen_while_it_is_there() -> None:
    with marked(Bubblewrap(LIMITS)).sandbox():
        assert left_processes()
    assert left_processes() == []


def test_tracing_is_granted_outside(tmp_path: Path) -> None:
    scope: dict[str, bytes] = {}
    exec(TRACER, scope)
    tracer = tmp_path / "tracer"
    tracer.write_bytes(scope["elf"])
    tracer.chmod(0o700)
    assert subprocess.run([tracer], check=False).returncode == 1


def test_right_answer_in_hostile_company_still_passes(run: Run) -> None:
    assert run(
        "import atexit, os\natexit.register(os._exit, 1)\ndef add(a, b): return a + b"
    ).correct
