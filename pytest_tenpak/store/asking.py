"""Requests to the shared store: bounded in time, silent, and explained without a word of a library's own.

What libraries say of a request may quote addresses and keys.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

#: What logs requests, whose headers hold signatures and tokens.
_LOGGERS = (
    "fsspec",
    "s3fs",
    "gcsfs",
    "adlfs",
    "botocore",
    "aiobotocore",
    "boto3",
    "urllib3",
    "azure",
    "google",
)

_T = TypeVar("_T")


class UnusableError(Exception):
    """The store did not answer, or refused; the text is safe to show."""

    def __init__(self, words: str, denied: bool = False) -> None:
        super().__init__(words)
        self.denied = denied


def redacted(url: str) -> str:
    """Return a URL without what may be secret in it: user and password, query and fragment."""
    shown = re.sub(r"//.*@", "//***@", url)
    return re.sub(r"[?#].*", "?***", shown, flags=re.DOTALL)


def ask(call: Callable[[], _T], seconds: float) -> _T:
    """Return what a request gives; raises FileNotFoundError, or UnusableError for any other fault.

    In a thread, since not every library can be told to give up.
    """
    with _SILENCE:
        try:
            return _bounded(call, seconds)
        except FileNotFoundError:
            raise
        except Exception as fault:
            raise UnusableError(_words(fault, seconds), isinstance(fault, PermissionError)) from None


def _bounded(call: Callable[[], _T], seconds: float) -> _T:
    """Return what a call gives; raises TimeoutError where it takes longer, and what it raises."""
    answers: list[_T] = []
    faults: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(call())
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=work, name="tenpak-store", daemon=True)
    thread.start()
    thread.join(seconds)
    if faults:
        raise faults.pop()  # popped, so that it does not hold itself, and by its frames the store
    if not answers:
        raise TimeoutError
    return answers[0]


def _words(fault: Exception, seconds: float) -> str:
    """Say what is wrong with the store, without a word of a library's message, which may hold secrets."""
    kind = type(fault).__name__
    if isinstance(fault, TimeoutError):
        return f"no answer within {seconds:.0f} s"
    if isinstance(fault, PermissionError):
        return "access was denied"
    if "Credential" in kind:
        return "no credentials were found"
    if "Connect" in kind:
        return "it cannot be reached"
    number = fault.errno if isinstance(fault, OSError) else None
    return f"{os.strerror(number)} ({kind})" if number else f"it failed with {kind}"


class _Silence:
    """Keeps libraries from logging requests, and their warnings from becoming errors of the suite.

    While any request is made, in whatever thread: the first one silences, the last one restores.

    It stands in the list of filters where a filter has the pattern of a message, and matches every warning of
    a thread that is not the main one. To save and restore the filters, as :class:`warnings.catch_warnings`
    does, in the thread of a gate would undo what a test does meanwhile.
    """

    def __init__(self) -> None:
        self._asking = 0
        self._lock = threading.Lock()
        self._levels: dict[logging.Logger, int] = {}
        self._filter = ("ignore", self, Warning, None, 0)

    def match(self, _text: str) -> bool:
        """Return whether a library asks the store in this thread, as far as can be known."""
        return self._asking > 0 and threading.current_thread() is not threading.main_thread()

    def __enter__(self) -> None:
        with self._lock:
            filters: list[Any] = warnings.filters  # type: ignore[assignment]
            if not filters or filters[0] is not self._filter:
                filters.insert(0, self._filter)
            if not self._asking:
                self._levels = {logger: logger.level for logger in map(logging.getLogger, _LOGGERS)}
                _set_levels(dict.fromkeys(self._levels, logging.CRITICAL))
            self._asking += 1

    def __exit__(self, *_raised: object) -> None:
        with self._lock:
            self._asking -= 1
            if not self._asking:
                _set_levels(self._levels)


def _set_levels(levels: dict[logging.Logger, int]) -> None:
    """Set levels of loggers.

    Each ``setLevel`` makes all loggers of the process, a thousand with torch, forget what they take: one does
    for all of these.
    """
    for logger, level in levels.items():
        logger.level = level
    logger.setLevel(level)


_SILENCE = _Silence()
