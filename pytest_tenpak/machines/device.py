"""The device, or devices, that a run measures on, found without importing torch in the pytest process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
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


_ACCEPTED = "auto, cpu, cuda, cuda:N, or several: cuda:0,1"


@dataclass(frozen=True)
class Device:
    """A torch device (``cpu``, ``cuda:0``), its class in baselines (``cpu-avx2``), its name.

    ``others`` are further GPUs of the same class, over which a model is spread that does not fit on the first
    one; or any model, with ``spread``. A spread model's figures are of the class: its kernels are the same.
    """

    torch_name: str
    device_class: str
    name: str
    others: tuple[str, ...] = ()
    spread: bool = False

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices that layers may be on, the first of which takes the text."""
        return (self.torch_name, *self.others)

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


def parse_device(wanted: str) -> tuple[str, tuple[int, ...]]:
    """Parse ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``cuda:N,M,…`` into family and indexes.

    Raises SpecError for anything else, and for an index that comes twice.
    """
    family, colon, rest = wanted.partition(":")
    indexes = rest.split(",") if colon else []
    fine = family == "cuda" or (family in ("auto", "cpu") and not colon)
    if not fine or not all(index.isdecimal() for index in indexes):
        raise SpecError(
            f"there is no device {wanted!r}",
            given=repr(wanted),
            accepted=_ACCEPTED,
            remedy="name GPUs by their indexes as torch counts them, or leave the option out for auto",
        )
    numbers = tuple(map(int, indexes))
    if len(set(numbers)) < len(numbers):
        raise SpecError(
            f"the device {wanted!r} names a GPU twice",
            given=repr(wanted),
            accepted="indexes that differ: cuda:0,1",
            remedy="name each GPU once",
        )
    return family, numbers


def choose_device(wanted: str, store: Store, worker: int = 0, workers: int = 1) -> Device:
    """Return the device for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``cuda:N,M,…``.

    ``worker`` of ``workers`` distributes ``auto`` and ``cuda`` over the GPUs of a machine, one per xdist
    worker; a single process may use all those of the first one's class. Raises SpecError for another word,
    and for several devices that several workers would share or whose classes differ; UnavailableError when
    CUDA is requested and there is none.
    """
    family, numbers = parse_device(wanted)
    if family == "cpu":
        return _cpu()
    _refuse_shared(wanted, numbers, workers)
    gpus = _gpus(store)
    if not gpus and family == "auto":
        return _cpu()
    spread = len(numbers) > 1
    first = worker % len(gpus) if gpus else 0
    if not numbers:
        rest = [n for n, gpu in enumerate(gpus) if n != first and gpu[0] == gpus[first][0]]
        numbers = (first, *(rest if workers == 1 else ()))
    if max(numbers) >= len(gpus):
        raise UnavailableError(
            f"there is no device {wanted!r}",
            given=f"{len(gpus)} CUDA devices that torch can use",
            remedy="use --tenpak-device=cpu, or install a driver and a CUDA build of torch",
        )
    _refuse_mixed(wanted, {number: gpus[number] for number in numbers})
    device_class, name = gpus[numbers[0]]
    others = tuple(f"cuda:{number}" for number in numbers[1:])
    return Device(f"cuda:{numbers[0]}", device_class, name, others, spread)


def _refuse_shared(wanted: str, numbers: Sequence[int], workers: int) -> None:
    if len(numbers) > 1 and workers > 1:
        raise SpecError(
            f"the devices {wanted!r} would be shared by all workers of xdist",
            given=f"{workers} workers",
            accepted="one process for several devices; under xdist auto or cuda, one GPU for each worker",
            remedy="run without -n, or use --tenpak-device=auto",
        )


def _refuse_mixed(wanted: str, chosen: Mapping[int, tuple[str, str]]) -> None:
    if len({device_class for device_class, _ in chosen.values()}) > 1:
        raise SpecError(
            f"the devices {wanted!r} are of several classes, whose kernels differ",
            given=", ".join(f"cuda:{number} is {': '.join(gpu)}" for number, gpu in chosen.items()),
            accepted="GPUs of one class",
            remedy="name those of one class only, or a single one",
        )


def count_devices(wanted: str, store: Store) -> int:
    """Return how many devices ``auto`` or ``cuda`` may mean, one for each GPU; 1 for anything else."""
    family, numbers = parse_device(wanted)
    return 1 if family == "cpu" or numbers else max(1, len(_gpus(store)))


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
