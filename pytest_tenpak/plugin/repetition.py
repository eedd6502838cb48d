"""Repetitions of a test by plugins, such as pytest-repeat and pytest-flakefinder: no part of a gate's name.

These give a test a parameter that neither it nor its fixtures ask for. A gate is measured once a run, however
often its test is run, and always compared with the one baseline of that gate.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

#: The parameters that each call of ``parametrize`` gave a test function; its items' ids have a part for each.
_calls: pytest.StashKey[dict[tuple[str, str], list[set[str]]]] = pytest.StashKey()


class RepetitionWatcher:
    """Notes what tests are parametrized with."""

    @pytest.hookimpl(wrapper=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> Generator[None, object, object]:
        """Note the parameters of each call of ``parametrize``."""
        calls: list[set[str]] = []
        parametrize = metafunc.parametrize

        def noting(argnames: Any, *args: Any, **options: Any) -> None:
            parametrize(argnames, *args, **options)
            names = argnames.split(",") if isinstance(argnames, str) else argnames
            calls.append({name.strip() for name in names})

        metafunc.parametrize = noting  # type: ignore[method-assign]
        definition = metafunc.definition
        known = metafunc.config.stash.setdefault(_calls, {})
        known[_parent(definition), definition.name] = calls
        return (yield)


def gate_id(item: pytest.Item) -> str:
    """Return a test's id without the parts that repetitions added."""
    callspec: Any = getattr(item, "callspec", None)
    if callspec is None or callspec.marks:
        return item.nodeid
    asked_for = getattr(item, "fixturenames", ())
    repeated = {name for name in callspec.params if name.startswith("__") and name not in asked_for}
    calls = item.config.stash.get(_calls, {}).get((_parent(item), getattr(item, "originalname", "")), [])
    parts = list(getattr(callspec, "_idlist", ()))
    if not repeated or len(calls) != len(parts):
        return item.nodeid
    kept = [part for names, part in zip(calls, parts, strict=True) if not names & repeated]
    test = item.nodeid.removesuffix(f"[{callspec.id}]")
    return f"{test}[{'-'.join(kept)}]" if kept else test


def _parent(node: pytest.Item) -> str:
    return node.parent.nodeid if node.parent is not None else ""
