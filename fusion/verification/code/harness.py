"""Runs inside the sandbox: the untrusted code, then its tests, then proof that these ended.

The code and its tests share one interpreter, so whatever Python code can reach, the untrusted
code can reach. The proof is therefore a secret that no Python object in reach refers to: it is
bound into a call that only C frames hold (`list(map(call, steps))`), and C makes that call only
after the tests returned. Exits, handlers, patched builtins and forged prints never get there;
what walks the heap or moves a frame (gc, ctypes, tracing) is denied by an audit hook, which cannot
be removed. /proc is absent or closed, and so are the extension modules that read raw memory.

What the tests rely on is kept from the code as far as that goes: the modules that they import are
loaded first and put back after the code and after each call into it, and a value that decides for
itself what it equals is no answer. Code written against this very file still has ways: threads,
frames, functions and containers changed in place, and what the tests take from it besides.

This file is passed as text to `python -c` and imports nothing but builtin or tiny modules.
"""

from __future__ import annotations

import builtins
import marshal
import posix
import resource
import sys
from _collections import deque  # type: ignore[import-not-found]
from _functools import partial  # type: ignore[import-not-found]  # functools takes 6 ms more
from _operator import call
from types import CodeType, FunctionType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

REPORT = int(sys.argv[1])
ONLY_AST = 0x400  # ast.PyCF_ONLY_AST
IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE
SCALARS = frozenset((int, float, str, bytes, bool, complex, type(None)))
CONTAINERS = (list, tuple, set, frozenset, dict, deque)
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "contains")
_ARITHMETIC = (
    "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift",
    "rshift", "and", "or", "xor",
)  # fmt: skip
JUDGING = frozenset(
    f"__{name}__" for name in (*_COMPARISONS, *_ARITHMETIC, *("r" + name for name in _ARITHMETIC))
)
OWN = ("__main__", "solution", "sys")  # not for the tests alone
# Names through which code may bind others in ways that cannot be told from its text.
BINDERS = frozenset(("exec", "eval", "globals", "locals", "vars", "setattr", "__builtins__"))
# What a metaclass cannot answer in its own way.
mro_of = type.__dict__["__mro__"].__get__
name_of = type.__dict__["__name__"].__get__
vars_of = type.__dict__["__dict__"].__get__
named: tuple[str, ...] = ()
library = sys.argv[2] + "/"


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


def may_define(tree: Any, name: str) -> bool:
    """Whether a module may bind a name at its top level: False only where it cannot."""
    waiting = [(tree, True)]
    while waiting:
        node, is_top = waiting.pop()
        kind = type(node).__name__
        bound = getattr(node, "name", None) or getattr(node, "rest", None)
        if kind == "Name":
            bound = node.id if type(node.ctx).__name__ == "Store" else None
            if node.id in BINDERS:
                return True
        elif kind == "alias":
            bound = node.asname or node.name.partition(".")[0]
        if (is_top and bound in (name, "*")) or (kind == "Global" and name in node.names):
            return True
        if kind == "Attribute" and node.attr in ("__dict__", "modules"):
            return True
        is_top = is_top and kind not in ("FunctionDef", "AsyncFunctionDef", "ClassDef", "Lambda")
        for field in node._fields:
            part = getattr(node, field, None)
            parts = part if isinstance(part, list) else [part]
            waiting += [(item, is_top) for item in parts if hasattr(item, "_fields")]
    return False


def check_entry(source: str, name: str) -> None:
    """Raises LookupError where the source cannot define the name."""
    try:
        tree = compile(source, "solution.py", "exec", ONLY_AST, dont_inherit=True)
    except (RecursionError, MemoryError):
        return
    if not may_define(tree, name):
        raise LookupError(name)


def plain(value: Any) -> Any:
    """The value, unless it or an item of it decides for itself what it equals."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if kind in SCALARS or id(item) in seen:
            continue
        seen.add(id(item))
        base = next((base for base in CONTAINERS if base in mro_of(kind)), None)
        if base is not None:
            waiting += [part for part in base.__iter__(item) if type(part) not in SCALARS]
        if base is dict:
            waiting += [part for part in dict.values(item) if type(part) not in SCALARS]
        if kind in CONTAINERS:
            continue
        if is_judge(kind) or item.__class__ is not kind:
            raise AssertionError("the answer decides for itself what it equals")
        try:
            is_equal = item == object()
        except Exception:
            continue
        if is_equal is True:
            raise AssertionError("the answer equals anything")
    return value


def is_judge(kind: type) -> bool:
    """Whether a class of the code, which the tests do not name, has comparisons of its own."""
    if name_of(kind) in named:
        return False
    return any(
        not is_trusted(method)
        for base in mro_of(kind)
        for name, method in vars_of(base).items()
        if name in JUDGING
    )


def is_trusted(method: Any) -> bool:
    """Whether a method is the interpreter's, the standard library's or the tests'."""
    if type(method) is not FunctionType:
        return type(method) in (type(object.__eq__), type(dict.__contains__), type(None))
    file = method.__code__.co_filename
    return file == "tests.py" or file.startswith((library, "<frozen "))


def spaces_of(modules: Any) -> list[Any]:
    """Where names can be given another meaning: each module's dict, and the classes in it."""
    spaces: dict[int, Any] = {}
    for module in modules:
        space = vars(module)
        spaces[id(space)] = space
        for kind in space.values():
            if isinstance(kind, type) and not kind.__flags__ & IMMUTABLE:
                spaces[id(kind)] = kind
    return list(spaces.values())


def remember(spaces: list[Any]) -> list[tuple[Any, dict[str, Any]]]:
    """What each space holds."""
    return [(space, dict(space if type(space) is dict else vars_of(space))) for space in spaces]


def restore(remembered: list[tuple[Any, dict[str, Any]]]) -> None:
    """Puts back what was changed, and takes away what now hides a method of a base class."""
    for space, before in remembered:
        is_class = type(space) is not dict
        now = vars_of(space) if is_class else space
        for name, value in before.items():
            if now.get(name, before) is not value:
                type.__setattr__(space, name, value) if is_class else space.update({name: value})
        for name in now.keys() - before.keys() if is_class else ():
            if any(name in vars_of(base) for base in mro_of(space)[1:]):
                type.__delattr__(space, name)


def call_watched(
    spaces: list[Any], scope: dict[str, Any], pristine: dict[str, Any],
    function: Any, /, *args: Any, **kwargs: Any,
) -> Any:  # fmt: skip
    """Calls what the code defines; afterwards modules and builtins are to the tests as before."""
    before = remember(spaces)
    shadows = scope.keys() & pristine.keys()
    try:
        return function(*args, **kwargs)
    finally:
        restore(before)
        for name in (scope.keys() & pristine.keys()) - shadows:
            del scope[name]


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


def load(imports: tuple[tuple[str, tuple[str, ...]], ...]) -> list[ModuleType]:
    """Imports what the tests will import, so that they get it as it is before the code runs."""
    wanted = set()
    for name, attributes in imports:
        try:
            __import__(name, None, None, attributes)
        except Exception:  # the tests will meet it again
            continue
        parts = name.split(".")
        wanted |= {".".join(parts[: end + 1]) for end in range(len(parts))}
        wanted |= {f"{name}.{attribute}" for attribute in attributes}
    return [sys.modules[name] for name in sorted(wanted & sys.modules.keys()) if name not in OWN]


def run_tests(
    code: CodeType,
    scope: dict[str, Any],
    pristine: dict[str, Any],
    entry_point: str | None,
    spaces: list[Any],
    before: list[tuple[Any, dict[str, Any]]],
) -> None:
    """Runs the tests in the scope of the code, but with builtins that the code did not touch.

    Names of builtins that the code gave another meaning keep it for the code alone, and modules
    that it changed are first put back.
    """
    restore(before)
    target = scope
    for name in pristine:
        if name in scope and name != entry_point and name[:2] != "__":
            target = scope.copy() if target is scope else target
            del target[name]
    target["__builtins__"] = pristine
    pristine["_crucible_call"] = partial(call_watched, spaces, target, pristine)
    exec(code, target)


def seal(pristine: dict[str, Any], named: tuple[str, ...]) -> dict[str, Any]:
    """What stands between code and tests, with builtins and globals that the code cannot patch."""
    scope = {**globals(), "__builtins__": dict(pristine), "named": named}
    for name, value in globals().items():
        if type(value) is FunctionType:
            scope[name] = FunctionType(value.__code__, scope, name, value.__defaults__)
    return scope


def steps(phases: list[str]) -> tuple[Callable[[], Any], ...]:
    """The calls to make in turn; nothing here outlives the return but what they are bound to."""
    posix.closerange(3, REPORT)
    posix.closerange(REPORT + 1, 1024)
    payload = b""
    while piece := posix.read(0, 1 << 20):
        payload += piece
    source, tests, entry_point, limits, uid, secret = marshal.loads(payload)
    imports, named, test_code = marshal.loads(tests)
    drop_root(uid)
    limit(*limits)
    pristine = dict(vars(builtins))
    sealed = seal(pristine, named)
    pristine["_crucible_plain"] = sealed["plain"]
    pristine["_crucible_call"] = None
    solution = ModuleType("solution")
    sys.modules["solution"] = solution
    scope = vars(solution)
    code = compile(source, "solution.py", "exec", dont_inherit=True)
    if entry_point:
        phases.append("entry")
        check_entry(source, entry_point)
    sys.addaudithook(partial(deny, sys.argv[2], str.startswith, str.__contains__))
    spaces = [*spaces_of(load(imports)), pristine]
    loaded = [module for name, module in sys.modules.items() if name not in OWN]
    before = remember([*spaces_of(m for m in loaded if type(m) is ModuleType), sys.modules])
    return (
        partial(phases.append, "code"),
        partial(exec, code, scope),
        partial(phases.append, "entry"),
        partial(scope.__getitem__, entry_point) if entry_point else tuple,
        partial(phases.append, "tests"),
        partial(sealed["run_tests"], test_code, scope, pristine, entry_point, spaces, before),
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
        report(b"memory")
    except BaseException:
        report(failed[phases[-1]])
    posix._exit(0)


if __name__ == "__main__":
    main()
