"""Numbers of bytes as people write and read them."""

from __future__ import annotations

import re

from .errors import SpecError

GIB = 1 << 30
_FACTORS = {"": 1, "b": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for ending, base in (("b", 1000), ("ib", 1024))
}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Parse ``50GB`` (powers of 10³), ``48 GiB`` (powers of 2¹⁰) or plain bytes; else raise SpecError."""
    match = _AMOUNT.fullmatch(text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise SpecError(
            f"{text!r} is not a number of bytes",
            given=repr(text),
            accepted="a number, alone or with KB, MB, GB, TB, KiB, MiB, GiB or TiB; 0 means no limit",
            remedy="for example: 50GB",
        )
    return int(float(match[1]) * factor)


def in_gib(amount: float) -> str:
    """Format a number of bytes as ``1.50 GiB``."""
    return f"{amount / GIB:.2f} GiB"
