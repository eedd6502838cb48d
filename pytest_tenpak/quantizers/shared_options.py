"""Options that several methods have, with one meaning."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..errors import SpecError
from ..spec import Option

FOUR_BITS = Option("bits", int, 4, "the only width of the method", choices=(4,))
GROUP_SIZE = Option(
    "group_size", int, 128, "weights that share a scale; -1: a whole row", minimum=-1, excluded=(0,)
)
SKIP_MODULES = Option("skip_modules", tuple, (), "modules to leave unquantized, besides the output head")


def require_named(option: str, parts: Iterable[str], names: Collection[str], what: str) -> None:
    """Raise SpecError for a part in the option's value that none of a model's ``what`` has in its name."""
    for part in sorted(parts):
        if not any(part in name for name in names):
            raise SpecError(
                f"{option} names {part!r}, but the model has no such {what}",
                accepted=f"names, or parts of names, of the model's {what}s",
                remedy="correct the name",
            )
