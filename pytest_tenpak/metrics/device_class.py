"""Device classes: what chooses kernels. A baseline has an entry for each.

``cpu-avx2``, ``cpu-avx512_bf16``, ``cpu-arm64``, ``cuda-sm90``; ``cpu`` in older files and of unknown CPUs.
"""

from __future__ import annotations

#: Classes of x86-64 CPUs, from the fewest instructions to the most.
X86 = ("cpu-x86-64", "cpu-avx2", "cpu-avx512", "cpu-avx512_bf16", "cpu-amx")
#: How far ln perplexity of the same weights moves between classes of CPUs at most, by method: twice what
#: ``benchmarks/cpu_classes.py`` measured, rounded up. Other methods: the largest of these.
CPU_SPREADS = {"nf4": 0.0025, "int8": 0.001, "fp16": 0.0001}


def distance(one: str, other: str) -> tuple[bool, int, str]:
    """Return how unlike two classes are, as a value to sort by: another kind is farthest, then steps."""
    kind, number = _parts(one)
    other_kind, other_number = _parts(other)
    return kind != other_kind, abs(number - other_number), other


def are_both_cpus(one: str, other: str) -> bool:
    """Return whether figures of two classes may be compared without being asked: both are of CPUs."""
    return _parts(one)[0] == _parts(other)[0] == "cpu"


def spread_between_cpus(method: str) -> float:
    """Return how far ln perplexity of the same weights may move between classes of CPUs."""
    return CPU_SPREADS.get(method, max(CPU_SPREADS.values()))


def _parts(name: str) -> tuple[str, int]:
    """Split a class into its kind and its place in it: ``cuda-sm90`` is 90 of ``cuda-sm``."""
    if name in X86:
        return "cpu", X86.index(name)
    if name == "cpu" or name.startswith("cpu-"):
        return "cpu", len(X86)
    kind = name.rstrip("0123456789")
    return kind, int(name[len(kind) :] or 0)
