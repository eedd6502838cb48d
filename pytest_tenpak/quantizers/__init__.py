"""Methods of quantization, their backend libraries, and the interpreters that these are installed in."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Return what conftests imported from here before the package itself was the public face."""
    if name in ("Backend", "Job", "Quantizer"):
        from . import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
