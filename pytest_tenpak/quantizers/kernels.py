"""Kernels: what multiplies quantized weights at run time, and what each can take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Leaves the choice of a kernel to the backend.
AUTO = "auto"


@dataclass(frozen=True)
class Kernel:
    """What one kernel of a backend takes.

    Widths in bits, families of devices, torch types of activations, group sizes (none named: any). One
    that is not ``automatic`` is never what a backend chooses by itself.
    """

    bits: tuple[int, ...]
    families: tuple[str, ...] = ("cuda",)
    dtypes: tuple[str, ...] = ("float16",)
    groups: tuple[int, ...] = ()
    symmetric_only: bool = False
    automatic: bool = True

    def lacks(self, options: Mapping[str, Any], family: str, dtype: str) -> Iterator[str]:
        """What it does not do of what is asked, each with what it does instead."""
        if family not in self.families:
            yield f"runs on {' and '.join(self.families)}, not on {family}"
        if options["bits"] not in self.bits:
            yield f"has {_listed(self.bits)} bits"
        if self.groups and options["group_size"] not in self.groups:
            yield f"has groups of {_listed(self.groups)}"
        if dtype not in self.dtypes:
            yield f"computes in {_listed(self.dtypes)}"
        if self.symmetric_only and not options.get("sym", not options.get("zero_point")):
            yield "is symmetric only"


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values))
