"""Loading what a job names, in its process: a checkpoint by its quantizer, anything else by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ..quantizers.loading import load_with_account
from ..quantizers.locate import relocate
from ..quantizers.placement import HOST, NONE, Space, within
from ..store.digest import fingerprint
from .jobs import LoadingJob, to_plain
from .memory import rooms

_FIELDS = ("directory", "quantizer", "device", "dtype", "placement")
#: The folder of this process, which ends with it: what is offloaded and not in the checkpoint's files.
_OFFLOADED = "offloaded"
_home: list[Path] = []


class Loaded(NamedTuple):
    """A model, the distribution that loaded it, and the tensors of its files that were not read."""

    model: Any
    loader: str
    unread: list[str]


def loading_key(job: LoadingJob) -> str:
    """Return what tells the loaded models of jobs apart: equal keys, the same model.

    The spec counts where a quantizer loads by it, and files count by size and time, since somebody may write
    into a directory during a run.
    """
    plain = to_plain(job)
    files = sorted(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in job.directory.iterdir()
        if path.is_file()
    )
    named = {name: plain[name] for name in _FIELDS}
    spec = plain["spec"] if job.quantizer else None
    return fingerprint({**named, "spec": spec, "files": files})


#: The model that this process has loaded, by its key: a process that stays has one.
_kept: dict[str, Loaded] = {}


def load_once(job: LoadingJob) -> Loaded:
    """Return the model of a job: loaded, unless this process has it already."""
    key = loading_key(job)
    if key not in _kept:
        _kept.clear()
        _kept[key] = load_subject(job)
    return _kept[key]


def load_subject(job: LoadingJob) -> Loaded:
    """Load a job's model; raises what the quantizer's loader, or transformers', raises."""
    with within(space_of(job)):
        if job.quantizer is not None:
            method = relocate(job.quantizer)
            model = method.load(job.spec, job.directory, job.device, job.dtype)
            return Loaded(model, method.loader(job.spec), [])
        model, unread = load_with_account(job.directory, job.device, job.dtype)
        return Loaded(model, "transformers", unread)


def live_in(folder: Path) -> None:
    """Set the folder that is removed with this process."""
    _home[:] = [folder]


def space_of(job: LoadingJob) -> Space:
    """Return the space that a job's model may be loaded into now."""
    wanted = job.placement
    devices = wanted.devices or (job.device,)
    offload = NONE if wanted.offload == HOST and job.device == "cpu" else wanted.offload
    if len(devices) < 2 and offload == NONE:
        return Space()
    found = rooms(devices, wanted.memory, in_worker=True)
    return Space(
        {device: found[device] for device in devices},
        found["cpu"],
        offload,
        wanted.spread,
        _home[0] / _OFFLOADED if _home else None,
    )
