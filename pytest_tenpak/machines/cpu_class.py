"""The class of this machine's CPU: what chooses kernels, and so moves figures in their last digits.

A class is named after the best instructions that torch, oneDNN and bitsandbytes have kernels for. Variables
of the environment that hold them to less make it the class that they are held to.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

from ..metrics.device_class import X86

#: What each class needs of the flags in /proc/cpuinfo.
_FLAGS = {
    "cpu-amx": {"amx_bf16", "avx512_bf16"},
    "cpu-avx512_bf16": {"avx512_bf16"},
    "cpu-avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "cpu-avx2": {"avx2", "fma"},
}
#: The best class that a value of a variable allows; others allow all.
_ATEN = {"default": "cpu-x86-64", "avx2": "cpu-avx2"}
_ONEDNN = {
    "sse41": "cpu-x86-64",
    "avx": "cpu-x86-64",
    "avx2": "cpu-avx2",
    "avx2_vnni": "cpu-avx2",
    "avx2_vnni_2": "cpu-avx2",
    "avx512_core": "cpu-avx512",
    "avx512_core_vnni": "cpu-avx512",
    "avx512_core_bf16": "cpu-avx512_bf16",
    "avx512_core_fp16": "cpu-avx512_bf16",
}
_HELD = {"ATEN_CPU_CAPABILITY": _ATEN, "ONEDNN_MAX_CPU_ISA": _ONEDNN, "DNNL_MAX_CPU_ISA": _ONEDNN}


def cpu_class() -> str:
    """Return the class: ``cpu-avx2``, ``cpu-avx512_bf16``, …, ``cpu-arm64``; ``cpu`` for an unknown one."""
    found = _of_the_machine()
    if found not in X86:
        return found
    held = [allowed.get(os.environ.get(name, "").lower(), found) for name, allowed in _HELD.items()]
    return min([found, *held], key=X86.index)


@cache
def _of_the_machine() -> str:
    machine = platform.machine().lower()
    if machine in ("arm64", "aarch64"):
        return "cpu-arm64"
    if machine not in ("x86_64", "amd64"):
        return "cpu"
    flags = _flags()
    if flags is None:
        return "cpu"
    return next((name for name, wanted in _FLAGS.items() if wanted <= flags), "cpu-x86-64")


def _flags() -> set[str] | None:
    """Return the flags of the first processor in /proc/cpuinfo; None where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    lines = (line.partition(":") for line in text.splitlines())
    return next((set(value.split()) for name, _, value in lines if name.strip() == "flags"), None)
