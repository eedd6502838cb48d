"""The settings and services that the cases of one pytest run share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..execution.executor import Workers
from ..execution.jobs import AnyJob, GenerateJob, MeasureJob
from ..execution.process import Bounds
from ..execution.residents import Residents
from ..machines.device import Device
from ..metrics.intervals import Rule
from ..progress import Progress
from ..quantizers.base import Quantizer
from ..quantizers.interpreters import Interpreters
from ..quantizers.placement import NONE, Placement
from ..quantizers.registry import Registry
from ..spec import QuantizeSpec
from ..store.store import Store
from ..verdict.update import Request


@dataclass(frozen=True)
class Run:
    """The settings and services that the cases of one pytest run share.

    ``root`` is where relative paths start. ``request`` says which baselines to update, ``reasons`` has the
    reasons of single tests. ``compare_across_devices``: a case without an entry for its device class is
    compared with the nearest one. ``rule`` is how decisions are made, ``divergence`` what is recorded of the
    reference for KL divergence. ``noise_repetitions`` is how often to requantize, to calibrate noise (0: do
    not). ``audit`` is what is compared without running: ``auto``, ``full``, ``files`` or ``off``.
    ``blame``: every case's modules are blamed; otherwise those of a regression that takes ``blame_seconds``
    at most (0: none). ``workers`` do the jobs. ``show_progress(title)`` opens a progress display. ``offload``
    is where layers go that do not fit on the devices.
    """

    root: Path
    store: Store
    registry: Registry
    baselines: Path
    choose_device: Callable[[], Device]
    request: Request
    reasons: Mapping[str, str]
    compare_across_devices: bool
    in_ci: bool
    skip_unavailable: bool
    batch_size: int
    rule: Rule
    divergence: str
    noise_repetitions: int
    audit: str
    blame: bool
    blame_seconds: float
    bounds: Bounds
    show_progress: Callable[[str], AbstractContextManager[Progress]]
    workers: Workers = field(default_factory=Residents)
    offload: str = NONE

    @property
    def interpreters(self) -> Interpreters:
        """Where the backends of methods are installed."""
        return self.registry.interpreters

    @property
    def placement(self) -> Placement:
        """Where the layers of models may go."""
        device = self.choose_device()
        return Placement(device.devices, device.spread, self.offload, self.bounds.memory)

    def do(self, job: MeasureJob | GenerateJob, progress: Progress, python: Path | None) -> Mapping[str, Any]:
        """Do a job whose model other jobs will want too, and return its answer; raises TenpakError."""
        return self.workers.run(self.store, job, progress, self.bounds, python)

    def do_once(self, job: AnyJob, progress: Progress, python: Path | None = None) -> Mapping[str, Any]:
        """Do a job in a process of its own, and return its answer; raises TenpakError."""
        return self.workers.run_once(self.store, job, progress, self.bounds, python)

    def interpreter(self, quantizer: Quantizer | None, spec: QuantizeSpec) -> Path | None:
        """Return the interpreter of a spec's backend, where that has an environment of its own."""
        return self.interpreters.python(quantizer.backend(spec).name) if quantizer else None

    def request_for(self, nodeid: str) -> Request:
        """Return the request for one test's baseline."""
        reason = self.reasons.get(nodeid, self.request.reason)
        return replace(self.request, reason=reason, reanchor=self.request.reanchor and reason is not None)
