"""Makes a program of a reply and its tests."""

import ast
import builtins
import marshal
import re
import warnings
from collections.abc import Iterator
from typing import TypeGuard

from fusion.verification.code.isolator import Program
from fusion.verification.task import Malformed, Task

_BLOCK = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<language>[^`\n]*)\n(?P<code>.*?)"
    r"(?:^[ \t]*(?P=fence)|\Z)",
    re.MULTILINE | re.DOTALL,
)
# `python3.11`, `Python 3`, `{python}` and `{.py}` are Python; `pycon` is not.
_PYTHON = re.compile(r"[{.\s]*(?:i?python|py)(?![a-z])", re.IGNORECASE)
_CHECKS = ast.Assert | ast.Raise | ast.Call
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def extract_code(reply: str) -> str:
    """The first fenced block of Python or of no language, else the first one, else all of it."""
    blocks = list(_BLOCK.finditer(reply))
    ours = (b for b in blocks if not b["language"].strip() or _PYTHON.match(b["language"]))
    block = next(ours, blocks[0] if blocks else None)
    if block is None:
        return reply
    return re.sub(rf"^[ \t]{{0,{len(block['indent'])}}}", "", block["code"], flags=re.MULTILINE)


def compile_tests(tests: str | None, entry_point: str | None) -> bytes | Malformed:
    """The tests as a marshalled code object, or the sentence that says why they are unusable.

    A `check(candidate)` that the tests define but do not call is called with the entry point.
    The harness stands between the tests and the code: at each call of what the code defines, and
    at each value that the tests compare, reckon with or assert. So the code object comes with the
    modules that the tests import and the names that they take from the code.
    """
    if tests is None or not tests.strip():
        return Malformed("the row has no tests to run: give some or drop the verifier")
    if entry_point is not None and entry_name(entry_point) is None:
        return Malformed(
            f"entry point {entry_point!r} is no Python name: give a function, as f or Solution().f"
        )
    try:
        tree = ast.parse(tests)
        is_check = _checks_anything(tree)
        imports, named = tuple(_imports(tree)), _free_names(tree)
        _Watcher(named | _candidates(tree, entry_point)).visit(tree)
        if _defines_check(tree) and not _calls_check(tree):
            if entry_point is None:
                return Malformed("the tests define check(candidate): give the entry point to check")
            tree.body += ast.parse(f"check({entry_point.strip()})").body
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            code = compile(ast.fix_missing_locations(tree), "tests.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Malformed(f"the tests do not compile ({type(error).__name__}: {error}): mend them")
    if not is_check:
        return Malformed("the tests check nothing, any program passes: assert, raise or call")
    return marshal.dumps((imports, _classes(named, entry_point), code))


def prepare(task: Task, tests: bytes) -> Program:
    """The program that a task describes."""
    name = entry_name(task.entry_point) if task.entry_point is not None else None
    return Program(extract_code(task.response), tests, name)


def entry_name(entry_point: str) -> str | None:
    """The name that the code must define: `f` of `f`, `Solution` of `Solution().f`, else None."""
    try:
        node = ast.parse(entry_point.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else None


def _is_check(node: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and node.name == "check"


def _defines_check(tree: ast.Module) -> bool:
    return any(map(_is_check, tree.body))


def _calls_check(tree: ast.Module) -> bool:
    outside = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    return any(_is_call_of_check(node) for part in outside for node in ast.walk(part))


def _is_call_of_check(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "check"
    )


def _always_holds(node: ast.AST) -> bool:
    """Whether it is `assert (x, "message")`, which asserts a tuple and no x."""
    return (
        isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple) and bool(node.test.elts)
    )


def _checks_anything(tree: ast.Module) -> bool:
    """Whether anything that runs can fail: an assertion, a raise or a call.

    Of a `check` that the tests define its body counts, and not the call of it.
    """
    waiting: list[ast.AST] = list(tree.body)
    has_check = _defines_check(tree)
    if has_check:
        waiting += (part for node in tree.body if _is_check(node) for part in node.body)
    while waiting:
        node = waiting.pop()
        if _always_holds(node) or (has_check and _is_call_of_check(node)):
            continue
        if isinstance(node, _CHECKS):
            return True
        if not isinstance(node, _FUNCTIONS):
            waiting += ast.iter_child_nodes(node)
    return False


def _imports(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, tuple(alias.name for alias in node.names)


def _free_names(tree: ast.Module) -> set[str]:
    """The names that the tests use and neither define nor find among the builtins: the code's."""
    used: set[str] = set()
    bound = set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name.partition(".")[0])
    return used - bound


def _candidates(tree: ast.Module, entry_point: str | None) -> set[str]:
    """What the tests call the entry point."""
    names = {entry_point.strip()} if entry_point else set()
    checks = (node for node in tree.body if _is_check(node))
    return names | {node.args.args[0].arg for node in checks if node.args.args}


def _classes(named: set[str], entry_point: str | None) -> tuple[str, ...]:
    """The classes of the code whose objects the tests know; a function's name is none of them."""
    entry = entry_name(entry_point) if entry_point else None
    entries = {entry} if entry else set()
    is_class = any(name[0].isupper() for name in entries)
    return tuple(sorted(named | entries if is_class else named - entries))


class _Watcher(ast.NodeTransformer):
    """Rewrites `f(x)` to `_crucible_call(f, x)` and `a == b` to `_crucible_plain(a) == ...`."""

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Watches the call of what the code defines, and the arguments of `assertEqual`."""
        name = ast.unparse(node.func)
        self.generic_visit(node)
        if name.rpartition(".")[2].startswith("assert"):
            node.args = [_watched(argument) for argument in node.args]
        if name not in self._names:
            return node
        call = ast.Call(ast.Name("_crucible_call", ast.Load()), [node.func, *node.args], [])
        call.keywords = node.keywords
        return ast.copy_location(call, node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Watches both sides; anything may be compared with None, and `is` asks no object."""
        self.generic_visit(node)
        sides = [node.left, *node.comparators]
        is_bare = any(isinstance(side, ast.Constant) and side.value is None for side in sides)
        if not is_bare and not all(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
            node.left, *node.comparators = map(_watched, sides)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Watches both sides: `abs(f(x) - 3) < 1e-6` is a comparison too."""
        self.generic_visit(node)
        node.left, node.right = _watched(node.left), _watched(node.right)
        return node


def _watched(node: ast.expr) -> ast.expr:
    if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp | ast.Starred):
        return node
    return ast.copy_location(ast.Call(ast.Name("_crucible_plain", ast.Load()), [node], []), node)
