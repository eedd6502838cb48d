"""How much memory is free, and how much a model needs: whether two fit beside each other, or one at all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

#: A model is loaded in float32 from 16 bit, and its activations and libraries come on top.
_TIMES, _REST = 2.5, 1 << 30
_GROUP = Path("/sys/fs/cgroup")
#: What is kept free of weights on each device, for activations and the library: a share, and bytes.
_KEPT_SHARE, _KEPT = 0.05, 1 << 30


def own_bytes(name: str) -> int:
    """Return a figure of this process in bytes: ``VmRSS``, or its peak ``VmHWM``.

    Raises OSError or LookupError where the system is not Linux.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.findall(rf"{name}:\s*(\d+) kB", status)[0])


def needed_bytes(directory: Path) -> float:
    """Return the bytes that loading and running the model in a directory takes, on the safe side."""
    return _TIMES * least_bytes(directory) + _REST


def least_bytes(directory: Path) -> int:
    """Return the bytes that the weights in a directory take as they are stored: loading takes no less."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def free_bytes(device: str) -> int:
    """Return the free memory of a device such as ``cpu`` or ``cuda:0``; 0 where it cannot be known."""
    return _of_gpu(device) if device.startswith("cuda") else _of_host()


def rooms(devices: Sequence[str], limit: int = 0, in_worker: bool = False) -> dict[str, int]:
    """Return the bytes that weights of this process may take, of each device and of the host (``cpu``).

    ``limit`` bounds the process's own memory on the host; 0 is no limit. ``in_worker``: this process is to
    use the GPUs anyway, so that torch may be asked, which knows parts of one (MIG).
    """
    free = {device: _free_to_torch(device) if in_worker else free_bytes(device) for device in devices}
    free["cpu"] = _of_host()
    if limit:
        free["cpu"] = min(free["cpu"], limit - _own())
    return {device: int(room * (1 - _KEPT_SHARE)) - _KEPT for device, room in free.items()}


def _own() -> int:
    """Return the memory that this process holds, without pages of mapped files."""
    import psutil

    info = psutil.Process().memory_info()
    return int(info.rss - getattr(info, "shared", 0))


def _free_to_torch(device: str) -> int:
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda"):
        return free_bytes(device)
    return int(torch.cuda.mem_get_info(device)[0])


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
