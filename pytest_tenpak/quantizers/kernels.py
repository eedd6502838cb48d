"""Kernels: the code that multiplies quantized weights at run time, and what each supports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Leaves the choice of a kernel to the backend.
AUTO = "auto"


@dataclass(frozen=True)
class Kernel:
    """What one kernel of a backend supports.

    Widths in bits, families of devices, torch types of activations, group sizes (empty: any). A backend
    never chooses a kernel by itself that is not ``automatic``.
    """

    bits: tuple[int, ...]
    families: tuple[str, ...] = ("cuda",)
    dtypes: tuple[str, ...] = ("float16",)
    groups: tuple[int, ...] = ()
    symmetric_only: bool = False
    automatic: bool = True

    def unmet(self, options: Mapping[str, Any], family: str, dtype: str) -> Iterator[str]:
        """Yield the requirements that the kernel does not meet, each as what it supports instead."""
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
