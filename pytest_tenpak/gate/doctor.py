"""Diagnose what is installed and which methods can run here: for a person whose gate did not start."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tabulate import tabulate

from ..errors import TenpakError
from ..machines.device import Device
from ..quantizers.base import Backend, Quantizer
from ..quantizers.interpreters import installed_versions
from ..store.eviction import sizes
from ..units import in_gib
from .inputs import missing_libraries
from .run import Run

_HEADERS = ("method", "backend", "version", "runs here", "why not, or where")


def diagnose(run: Run) -> list[str]:
    """Lines for a terminal: versions, device, every method with its backends, the cache."""
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    shown = ", ".join(f"{kind} {in_gib(size)}" for kind, size in sizes(run.store.root).items()) or "empty"
    rows = [row for method in run.registry for row in _rows(run, run.registry[method])]
    return [
        versions,
        f"device: {_device(run)}",
        f"cache: {run.store.root} ({shown})",
        *_bytecode(),
        "",
        *tabulate(rows, _HEADERS, disable_numparse=True).splitlines(),
    ]


def _device(run: Run) -> str:
    try:
        device: Device = run.choose_device()
    except TenpakError as error:
        return f"{error.problem}: {error.remedy}" if error.remedy else error.problem
    return device.torch_name if device.name == device.torch_name else f"{device.torch_name}, {device.name}"


def _bytecode() -> Iterator[str]:
    """A line where every process compiles torch anew, which takes longer than most gates on a GPU."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return
    compiled = Path(importlib.util.cache_from_source(found.origin))
    folder = next(one for one in compiled.parents if one.is_dir())
    if compiled.is_file() or (not sys.dont_write_bytecode and os.access(folder, os.W_OK)):
        return
    if sys.dont_write_bytecode:
        why, remedy = "PYTHONDONTWRITEBYTECODE is set", "unset it, or run python -m compileall there once"
    else:
        why, remedy = f"{folder} is not writable", "set PYTHONPYCACHEPREFIX to a folder that is, and stays"
    yield f"bytecode: none of torch, and none is kept ({why}): every process compiles it again; {remedy}"


def _rows(run: Run, quantizer: Quantizer) -> Iterator[list[str]]:
    """A row for each backend of a method."""
    for backend in quantizer.choices():
        shown = backend.name if backend.requires else ""
        yield [quantizer.method, shown, *_state(run, backend)]


def _state(run: Run, backend: Backend) -> list[str]:
    """Version, whether it runs, and what is missing or in which interpreter it runs."""
    try:
        found = run.interpreters.versions(backend.name, *backend.requires)
        python = run.interpreters.python(backend.name)
    except TenpakError as error:
        return ["", "no", f"{error.problem}: {error.remedy}"]
    missing = [*missing_libraries(), *(name for name in backend.requires if name not in found)]
    if missing:
        return ["", "no", f"{', '.join(missing)} not installed: {backend.install_line(python)}"]
    version = found[backend.requires[0]] if backend.requires else ""
    return [version, "yes", "" if python is None else f"in {python}"]
