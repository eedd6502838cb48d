"""The device that a run measures on, found without importing torch in the pytest process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import SpecError, UnavailableError
from ..store.store import Store
from .cpu_class import cpu_class

# That a GPU is busy, or its driver just replaced, is no answer; a build without CUDA, or a user, hides all.
_PROBE = """
import os, sys, torch
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        print(f"cuda-sm{major}{minor}", torch.cuda.get_device_name(i), sep="|")
elif (torch.version.cuda or torch.version.hip) and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
    sys.exit("torch cannot use a GPU now")
"""

#: Environment variables that hide, order or split the GPUs of a machine, or choose the driver's libraries.
_GPU_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_MPS_PIPE_DIRECTORY",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
)

#: Environment variables that choose kernels or their precision, and so move figures.
KERNEL_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
    "TORCH_BLAS_PREFER_CUBLASLT",
)


@dataclass(frozen=True)
class Device:
    """A torch device (``cpu``, ``cuda:0``), its class in baselines (``cpu-avx2``), its name."""

    torch_name: str
    device_class: str
    name: str

    @property
    def family(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.torch_name.partition(":")[0]

    @property
    def default_dtype(self) -> str:
        """The type that ``dtype="auto"`` means here: exact on CPU, the usual type of models on CUDA."""
        return "float32" if self.family == "cpu" else "bfloat16"

    @property
    def settings(self) -> dict[str, str]:
        """The variables of the environment that choose kernels, with their values."""
        return {name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ}


def parse_device(wanted: str) -> tuple[str, int | None]:
    """Parse ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into family and index; else raise SpecError."""
    family, colon, index = wanted.partition(":")
    if family not in ("auto", "cpu", "cuda") or (colon and (family != "cuda" or not index.isdecimal())):
        raise SpecError(f"there is no device {wanted!r}", given=wanted, accepted="auto, cpu, cuda, cuda:N")
    return family, int(index) if colon else None


def choose_device(wanted: str, store: Store, worker: int = 0) -> Device:
    """Return the device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    ``worker`` distributes ``auto`` and ``cuda`` over the GPUs of a machine, one per xdist worker. Raises
    SpecError for another word, UnavailableError when CUDA is requested and there is none.
    """
    family, index = parse_device(wanted)
    if family == "cpu":
        return _cpu()
    gpus = _gpus(store)
    if not gpus and family == "auto":
        return _cpu()
    number = index if index is not None else (worker % len(gpus) if gpus else 0)
    if number >= len(gpus):
        raise UnavailableError(
            f"there is no device {wanted!r}",
            given=f"{len(gpus)} CUDA devices that torch can use",
            remedy="use --tenpak-device=cpu, or install a driver and a CUDA build of torch",
        )
    device_class, name = gpus[number]
    return Device(f"cuda:{number}", device_class, name)


def count_devices(wanted: str, store: Store) -> int:
    """Return how many devices ``auto`` or ``cuda`` may mean, one for each GPU; 1 for anything else."""
    family, index = parse_device(wanted)
    return 1 if family == "cpu" or index is not None else max(1, len(_gpus(store)))


def _cpu() -> Device:
    return Device("cpu", cpu_class(), "cpu")


def _gpus(store: Store) -> list[tuple[str, str]]:
    """Return (class, name) of each GPU that torch can use; probed once for the same settings and torch."""
    smi, torch = shutil.which("nvidia-smi"), importlib.util.find_spec("torch")
    if smi is None or torch is None or torch.origin is None:
        return []
    # The list names the instances that a GPU is split into (MIG), which the query does not.
    asked = [[smi, "-L"], [smi, "--query-gpu=uuid,driver_version", "--format=csv,noheader"]]
    found = [subprocess.run(command, capture_output=True, text=True, check=False) for command in asked]
    if any(ran.returncode for ran in found):
        return []
    cache_key = {
        "gpus": [ran.stdout for ran in found],
        "visible": {name: os.environ.get(name) for name in _GPU_VARIABLES},
        # Its version alone does not say for which CUDA it was built.
        "torch": store.file_digest(Path(torch.origin).with_name("version.py")),
        "python": sys.executable,
    }
    try:
        rows = store.document("devices", cache_key, _probe)["gpus"]
    except _NoAnswerError:
        return []
    return [(row[0], row[1]) for row in rows]


class _NoAnswerError(Exception):
    """Torch could not say which GPUs there are: it is asked again next time."""


def _probe() -> dict[str, list[list[str]]]:
    ran = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise _NoAnswerError
    return {"gpus": [line.split("|", 1) for line in ran.stdout.splitlines() if "|" in line]}
