"""Hooks that other plugins and conftests may implement. None of them can change a verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .quantizers import Quantizer


def pytest_tenpak_register_quantizers(register: Callable[[type[Quantizer]], None]) -> None:
    """Add methods of quantization: call ``register(Class)`` with a subclass of ``Quantizer``.

    Called once, after collection, when the run has gates. The class must be importable or stand in a
    Python file (a conftest will do), since a worker process loads it again.
    """
