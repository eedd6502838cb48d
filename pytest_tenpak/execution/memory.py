"""How much memory is free, and how much a model needs: whether two fit beside each other."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

#: A model is loaded in float32 from 16 bit, and its activations and libraries come on top.
_TIMES, _REST = 2.5, 1 << 30
_GROUP = Path("/sys/fs/cgroup")


def needed_bytes(directory: Path) -> float:
    """Return the bytes that loading and running the model in a directory takes, on the safe side."""
    return _TIMES * least_bytes(directory) + _REST


def least_bytes(directory: Path) -> int:
    """Return the bytes that the weights in a directory take as they are stored: loading takes no less."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def free_bytes(device: str) -> int:
    """Return the free memory of a device such as ``cpu`` or ``cuda:0``; 0 where it cannot be known."""
    return _of_gpu(device) if device.startswith("cuda") else _of_host()


def _of_host() -> int:
    """Return what the machine has free, or the container that this is."""
    import psutil

    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no limit is the word "max"
        most = int((_GROUP / "memory.max").read_text(encoding="ascii"))
        used = int((_GROUP / "memory.current").read_text(encoding="ascii"))
        free = min(free, most - used)
    return free


def _of_gpu(device: str) -> int:
    number, smi = int(device.partition(":")[2] or 0), shutil.which("nvidia-smi")
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if smi is None or (visible and number >= len(visible)):
        return 0
    command = [
        smi,
        f"--id={visible[number] if visible else number}",
        "--query-gpu=memory.free",
        "--format=csv,noheader,nounits",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    with suppress(ValueError):
        return int(ran.stdout.strip()) << 20
    return 0
