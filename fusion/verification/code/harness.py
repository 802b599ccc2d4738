"""Runs inside the sandbox: the untrusted code, then its tests, then proof that these ended.

The code and its tests share one interpreter, so whatever Python code can reach, the untrusted
code can reach. The proof is therefore a secret that no Python object in reach refers to: it is
bound into a call that only C frames hold (`list(map(call, steps))`), and C makes that call only
after the tests returned. Exits, handlers, patched builtins and forged prints never get there;
what walks the heap or moves a frame (gc, ctypes, tracing) is denied by an audit hook, which cannot
be removed. /proc is absent or closed, and so are the extension modules that read raw memory.

This file is passed as text to `python -c` and imports nothing but builtin or tiny modules.
"""

from __future__ import annotations

import builtins
import marshal
import posix
import resource
import sys
from _functools import partial  # type: ignore[import-not-found]  # functools takes 6 ms more
from _operator import call
from types import CodeType, FunctionType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

REPORT = int(sys.argv[1])


def deny(prefix: str, starts_with: Any, contains: Any, event: str, args: Any) -> None:
    """The audit hook: refuses what reads the heap, other frames or raw memory."""
    # Names looked up in here can be patched by the untrusted code, to no avail: a lookup that
    # fails raises as well. Only constants and arguments decide.
    if event in {
        "gc.get_objects",
        "gc.get_referrers",
        "gc.get_referents",
        "sys._current_frames",
        "sys._current_exceptions",
        "sys.settrace",
        "sys.setprofile",
        "sys.monitoring.register_callback",
        "cpython.PyInterpreterState_New",
    }:
        raise PermissionError(event)
    is_extension = event == "import" and args[1] is not None
    if is_extension and (contains(args[1], "..") or not starts_with(args[1], prefix)):
        raise PermissionError(event)
    # The interpreter's modules for raw memory, where no mount hides them.
    if is_extension and (
        contains(args[1], "/_ctypes")
        or contains(args[1], "/_test")
        or contains(args[1], "/_xxsubinterpreters")
        or contains(args[1], "/_interpreters")
        or contains(args[1], "-packages/")
    ):
        raise ImportError(event)


def plain(value: Any, depth: int = 0) -> Any:
    """The value, unless it is made to equal anything: a known way to pass every assertion."""
    kind = type(value)
    if kind in (int, float, str, bytes, bool, complex, type(None)):
        return value
    if kind in (list, tuple, set, frozenset) and depth < 3:
        for item in value:
            plain(item, depth + 1)
    elif kind is dict and depth < 3:
        for item in value.values():
            plain(item, depth + 1)
    else:
        try:
            is_equal = value == object()
        except Exception:
            return value
        if is_equal is True:
            raise AssertionError("the answer equals anything")
    return value


def limit(memory: int, processes: int, seconds: int, file_bytes: int) -> None:
    """Sets limits that the program cannot raise again."""
    bounds = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 128,
    }
    for kind, bound in bounds.items():
        resource.setrlimit(kind, (bound, bound))


def drop_root(uid: int) -> None:
    """Becomes an unprivileged user for good, where the sandbox was started by root."""
    if uid:
        posix.setgroups([])
        posix.setresgid(uid, uid, uid)
        posix.setresuid(uid, uid, uid)


def report(word: bytes) -> None:
    """Tells the host one word."""
    posix.write(REPORT, b"\n" + word + b"\n")


def run_tests(
    code: CodeType, scope: dict[str, Any], pristine: dict[str, Any], entry_point: str | None
) -> None:
    """Runs the tests in the scope of the code, but with builtins that the code did not touch.

    Names of builtins that the code gave another meaning keep it for the code alone.
    """
    target = scope
    for name in pristine:
        if name in scope and name != entry_point and name[:2] != "__":
            target = scope.copy() if target is scope else target
            del target[name]
    target["__builtins__"] = pristine
    exec(code, target)


def seal(function: Any, pristine: dict[str, Any]) -> Any:
    """The function, with builtins and globals that the code cannot patch before its tests run."""
    scope = {"__builtins__": pristine}
    scope[function.__name__] = FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__
    )  # type: ignore[assignment]
    return scope[function.__name__]


def steps(phases: list[str]) -> tuple[Callable[[], Any], ...]:
    """The calls to make in turn; nothing here outlives the return but what they are bound to."""
    posix.closerange(3, REPORT)
    posix.closerange(REPORT + 1, 1024)
    payload = b""
    while piece := posix.read(0, 1 << 20):
        payload += piece
    source, tests, entry_point, limits, uid, secret = marshal.loads(payload)
    drop_root(uid)
    limit(*limits)
    pristine = dict(vars(builtins))
    run = seal(run_tests, pristine)
    pristine["_crucible_plain"] = seal(plain, dict(pristine))
    solution = ModuleType("solution")
    sys.modules["solution"] = solution
    scope = vars(solution)
    code = compile(source, "solution.py", "exec", dont_inherit=True)
    sys.addaudithook(partial(deny, sys.argv[2], str.startswith, str.__contains__))
    return (
        partial(phases.append, "code"),
        partial(exec, code, scope),
        partial(phases.append, "entry"),
        partial(scope.__getitem__, entry_point) if entry_point else tuple,
        partial(phases.append, "tests"),
        partial(run, marshal.loads(tests), scope, pristine, entry_point),
        partial(posix.write, REPORT, secret),
    )


def main() -> None:
    """Runs the steps and reports the first that raised; the last step reports a pass."""
    report(b"started")
    phases = ["compile"]
    failed = {
        "compile": b"syntax_error",
        "code": b"code_failed",
        "entry": b"no_entry_point",
        "tests": b"tests_failed",
    }
    try:
        # No frame, variable or collector list leads to the steps while the code runs.
        list(map(call, steps(phases)))
    except (SystemExit, KeyboardInterrupt):
        report(b"exited")
    except MemoryError:
        report(b"syntax_error" if phases[-1] == "compile" else b"memory")
    except BaseException:
        report(failed[phases[-1]])
    posix._exit(0)


if __name__ == "__main__":
    main()
