"""Programs that try to pass without an answer, to get out, or to do harm. None may succeed."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusion.verification import Limits, Task, Verdict, Verifiers

LIMITS = Limits(code_timeout_s=3, code_memory_mib=256, workers=1)
WRONG = "\ndef add(a, b): return None\n"
ESCAPE = "\ndef add(a, b): return 3 if reached else None\n"

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
    "list_of_equal_to_everything": ("from unittest.mock import ANY\ndef add(a, b): return ANY"),
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
    "device_nodes": (
        "import os, stat\nreached = False\ntry:\n"
        "    os.mknod('/tmp/disk', 0o600 | stat.S_IFBLK, os.makedev(254, 0))\n    reached = True\n"
        "except OSError: pass" + ESCAPE
    ),
}

# Each only does harm; it must end in time and leave nothing.
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
        "import os\nfor pid in range(2, 70000):\n    try: os.kill(pid, 9)\n    except OSError: pass"
    ),
    "crash": "def f(): f()\nimport sys\nsys.setrecursionlimit(1 << 30)\nf()",
    "daemon_left_behind": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        os.execv(__import__('sys').executable, ['left-behind', '-c',"
        " 'import time; time.sleep(600)'])\n    os._exit(0)\ntime.sleep(0.3)"
    ),
}

pytestmark = pytest.mark.usefixtures("sandbox")


Run = Callable[..., Verdict]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Judges one program; the trial run of the isolator is behind it."""
    with Verifiers(LIMITS) as verifiers:
        right = Task("code", "def add(a, b): return a + b", tests="add(1, 2)", entry_point="add")
        verifiers.verify([right])

        def run_one(source: str, tests: str = "assert add(1, 2) == 3") -> Verdict:
            start = time.monotonic()
            task = Task("code", source, tests=tests, entry_point="add")
            (verdict,) = verifiers.verify([task])
            assert time.monotonic() - start < LIMITS.code_timeout_s + 2
            assert isinstance(verdict, Verdict)
            return verdict

        yield run_one


def processes() -> dict[int, str]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
    return found


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_pass_is_no_pass(run: Run, name: str) -> None:
    tests = "def check(candidate):\n    got = candidate(1, 2)\n    assert got == 3\n    del got\n"
    assert not run(FORGERIES[name], tests).correct


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_pass_is_no_pass_against_plain_assertions(run: Run, name: str) -> None:
    assert not run(
        FORGERIES[name], "assert add(1, 2) == 3\nassert isinstance(add(1, 1), int)"
    ).correct


@pytest.mark.parametrize("name", ESCAPES)
def test_program_reaches_nothing_outside(
    run: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRUCIBLE_SECRET_TOKEN", "hush")
    verdict = run(ESCAPES[name])
    assert (verdict.correct, verdict.reason) == (False, "tests_failed")


@pytest.mark.parametrize("name", HARMS)
def test_harmful_program_ends_in_time_and_leaves_nothing(run: Run, name: str) -> None:
    bystander = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")
    try:
        assert not run(HARMS[name] + WRONG).correct
        assert os.waitpid(bystander, os.WNOHANG) == (0, 0)
    finally:
        os.kill(bystander, 9)
        os.waitpid(bystander, 0)
    assert not [line for line in processes().values() if "left-behind" in line]


def test_right_answer_in_hostile_company_still_passes(run: Run) -> None:
    assert run(
        "import atexit, os\natexit.register(os._exit, 1)\ndef add(a, b): return a + b"
    ).correct
