"""Watching a collection: all tests before any is deselected, and the test files that it saw completely."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from ..errors import TenpakError
from . import options

#: Options with which pytest collects only part of the tests, or a run is continued later.
_PARTIAL = ("lf", "stepwise")


class CollectionWatcher:
    """Watches one process collect; under xdist every worker does, and the controller sees nothing."""

    def __init__(self) -> None:
        self._modules: set[Path] = set()
        self._items: list[pytest.Item] = []
        self._seen: set[str] = set()
        self._left_out: set[str] = set()
        self._has_errors = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(self, module_path: Path) -> None:
        """Note a file that is collected for its tests, and not for its doctests alone."""
        self._modules.add(module_path)

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Note a test; its markers are read later, since a conftest may add some."""
        self._items.append(item)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what was collected: pytest reports a file as passed only if all of it was collected."""
        self._has_errors |= report.failed
        (self._seen if report.passed else self._left_out).add(report.nodeid)

    def unused(
        self, session: pytest.Session, claims_of: Callable[[pytest.Item], Iterable[str]]
    ) -> tuple[str, ...] | None:
        """Return the baselines that no test uses; None where this collection cannot show that.

        ``claims_of(item)`` returns the names of a test's baselines, and raises TenpakError where its marker
        is wrong: the baselines used in that test's file are then not known.
        """
        config = session.config
        items, self._items = dict.fromkeys([*self._items, *session.items]), []
        folder = options.baseline_folder(config)
        partial = any(config.getoption(name, False) for name in _PARTIAL)
        if partial or self._has_errors or not folder.is_dir():
            return None
        claims: set[str] = set()
        for item in items:
            if getattr(getattr(item, "callspec", None), "id", "") == "NOTSET":
                self._left_out.add(item.nodeid)  # it has no parameters here, but may have some elsewhere
            try:
                claims.update(claims_of(item))
            except TenpakError:
                self._left_out.add(item.nodeid)
        from ..baselines.unused import Collected, find_unused

        homes = [config.rootpath / home for home in config.getini("testpaths") or [""]]
        whole = {file for file in self._seen if config.rootpath / file in self._modules}
        collected = Collected(
            claims=claims,
            whole={file for file in whole if not any(_touches(node, file) for node in self._left_out)},
            covers=lambda path: _is_argument(session, path),
            complete=not self._left_out and all(_is_argument(session, home) for home in homes),
        )
        return find_unused(folder, config.rootpath, collected)


def _touches(node: str, file: str) -> bool:
    """Return whether a node is the file, something in it, or a folder above it."""
    return node in ("", ".", file) or node.startswith(f"{file}::") or file.startswith(f"{node}/")


def _is_argument(session: pytest.Session, path: Path) -> bool:
    """Return whether a path, or a folder above it, is an argument of pytest."""
    return any(session.isinitpath(folder) for folder in (path, *path.parents))
