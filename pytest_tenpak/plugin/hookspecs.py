"""Hooks that other plugins and conftests may implement. None of them can change a verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from ..execution.executor import Executor
    from ..gate.summary import Summary
    from ..quantizers.base import Quantizer


def pytest_tenpak_register_quantizers(register: Callable[[type[Quantizer]], None]) -> None:
    """Add methods of quantization: call ``register(Class)`` with a subclass of ``Quantizer``.

    Called once, after collection, when the run has gates. The class must be importable or defined in a
    Python file (a conftest will do), since a worker process loads it again.
    """


def pytest_tenpak_register_executors(
    register: Callable[[str, Callable[[pytest.Config], Executor]], None],
) -> None:
    """Add a place where jobs can run: call ``register(name, make)``; ``--tenpak-executor=name`` uses it.

    ``make(config)`` returns an object with the verbs of ``Executor``. Called once, when the run has gates.
    """


def pytest_tenpak_register_reporters(
    register: Callable[[Callable[[Summary], Any]], None], config: pytest.Config
) -> None:
    """Add reports: call ``register(reporter)`` with a callable that takes the run's ``Summary``.

    Called once, when the run has ended, and never in a worker of xdist. What a reporter raises is
    shown in every later report and fails the run; other reports are still made, and no verdict changes.
    """
