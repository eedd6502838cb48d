"""The line of a marker in its test file, which annotations point at."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

_Decorated: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def marker_line(file: Path, line: int, name: str, arguments: Mapping[str, Any]) -> int:
    """Return the line of the marker ``name(**arguments)`` of the test at ``line``, its ``def`` or decorator.

    Searched for among the test's decorators, then those of its classes, then in what is assigned to
    ``pytestmark``. The test's own line where the marker is none of these (an alias, or added by a hook), or
    where the file cannot be read.
    """
    try:
        tree, scopes = _parsed(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return line
    around = [scope for scope in scopes if _holds(scope, line)]
    for scope in (*reversed(around), tree):
        for call in _calls(scope):
            if _called(call) == name and _agrees(call, arguments):
                return call.lineno
    return line


@lru_cache(maxsize=4)
def _parsed(text: str) -> tuple[ast.Module, tuple[_Decorated, ...]]:
    """Return a file's tree with its functions and classes, an outer one before its inner ones.

    Once for all tests of a file: with a walk for each, collecting a thousand gates took 16 s.
    """
    tree = ast.parse(text)
    return tree, tuple(node for node in ast.walk(tree) if isinstance(node, _Decorated))


def _holds(node: _Decorated, line: int) -> bool:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return first <= line <= (node.end_lineno or node.lineno)


def _calls(scope: _Decorated | ast.Module) -> Iterator[ast.Call]:
    """Yield the calls among a scope's decorators and in its ``pytestmark``."""
    marks = list(scope.decorator_list) if not isinstance(scope, ast.Module) else []
    if not isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)):
        marks += [node.value for node in scope.body if isinstance(node, ast.Assign) and _marks(node)]
    for mark in marks:
        yield from (node for node in ast.walk(mark) if isinstance(node, ast.Call))


def _marks(node: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)


def _called(call: ast.Call) -> str:
    """Return the last name of a called attribute: ``quantize`` for ``pytest.mark.quantize(…)``."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _agrees(call: ast.Call, arguments: Mapping[str, Any]) -> bool:
    """Return whether the call has these keyword arguments, as far as they are literals."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if None not in given and given.keys() != arguments.keys():
        return False
    for name, value in given.items():
        try:
            if name is not None and ast.literal_eval(value) != arguments.get(name):
                return False
        except (ValueError, TypeError):
            continue
    return True
