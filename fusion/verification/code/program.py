"""Makes a program of a reply and its tests."""

import ast
import marshal
import re

from fusion.verification.code.isolator import Program
from fusion.verification.task import Malformed, Task

_FENCE = re.compile(
    r"^[ \t]*```[ \t]*(?:python3?|py)[ \t]*\r?\n(.*?)(?:^[ \t]*```|\Z)",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)
_BARE_FENCE = re.compile(r"^[ \t]*```[ \t]*\r?\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)


def extract_code(reply: str) -> str:
    """The first block fenced as Python, else the first one of no language, else the whole reply."""
    block = _FENCE.search(reply) or _BARE_FENCE.search(reply)
    return block.group(1) if block else reply


def compile_tests(tests: str | None, entry_point: str | None) -> bytes | Malformed:
    """The tests as a marshalled code object, or the sentence that says why they are unusable.

    A `check(candidate)` that the tests define but do not call is called with the entry point.
    Each value that the entry point hands back is looked at by the harness on its way.
    """
    if tests is None or not tests.strip():
        return Malformed("the row has no tests to run: give some or drop the verifier")
    if entry_point is not None and entry_name(entry_point) is None:
        return Malformed(
            f"entry point {entry_point!r} is no Python name: give a function, as f or Solution().f"
        )
    try:
        tree = ast.parse(tests)
        _watch_results(tree, entry_point)
        if _defines_check(tree) and not _calls_check(tree):
            if entry_point is None:
                return Malformed("the tests define check(candidate): give the entry point to check")
            tree.body += ast.parse(f"check({entry_point.strip()})").body
        code = compile(ast.fix_missing_locations(tree), "tests.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Malformed(f"the tests do not compile ({type(error).__name__}: {error}): mend them")
    return marshal.dumps(code)


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


def _defines_check(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)


def _calls_check(tree: ast.Module) -> bool:
    outside = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    calls = (node for part in outside for node in ast.walk(part) if isinstance(node, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == "check" for call in calls)


def _watch_results(tree: ast.Module, entry_point: str | None) -> None:
    names = {entry_point.strip()} if entry_point else set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "check" and node.args.args:
            names.add(node.args.args[0].arg)
    _Watcher(names).visit(tree)


class _Watcher(ast.NodeTransformer):
    """Rewrites `candidate(x)` to `_crucible_plain(candidate(x))`."""

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Wraps the call of a name that is watched."""
        self.generic_visit(node)
        if ast.unparse(node.func) not in self._names:
            return node
        watch = ast.Name("_crucible_plain", ast.Load())
        return ast.copy_location(ast.Call(watch, [node], []), node)
