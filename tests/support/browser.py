"""A headless browser, to open pages as a user opens them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str:
    """The browser's path; skips where there is none, and fails where TENPAK_REQUIRE_BROWSER is set."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        _give_up(f"there is no browser: none of {', '.join(NAMES)} is on the path")
    return found


def _give_up(reason: str) -> NoReturn:
    (pytest.fail if os.environ.get("TENPAK_REQUIRE_BROWSER") else pytest.skip)(reason)


@contextmanager
def launched() -> Iterator[Any]:
    """A browser, closed in the end."""
    path = executable()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as fault:
        _give_up(f"playwright is not installed: {fault}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page opened from a file, and what it did that it should not: requests, errors, dialogs."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.faults: list[str] = []
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(5000)
        self.page.on("console", lambda message: self.faults.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on(
            "dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )
        self.page.on("request", lambda request: self._seen(request.url, path.as_uri()))
        self.page.goto(path.as_uri())

    def _seen(self, url: str, own: str) -> None:
        if url.partition("#")[0] != own:
            self.faults.append(f"request: {url}")
