"""What the cases of one pytest run share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from ..execution.process import Bounds
from ..metrics.intervals import Rule
from ..progress import Progress
from ..quantizers.interpreters import Interpreters
from ..quantizers.registry import Registry
from ..store.store import Store
from ..verdict.update import Request
from .device import Device


@dataclass(frozen=True)
class Run:
    """What the cases of one pytest run share.

    ``root`` is where relative paths start. ``request`` is what shall happen to baselines, ``reasons`` holds
    the tests that have a reason of their own. ``compare_across_devices``: a case without an entry for its
    device class is compared with the nearest one. ``rule`` is how decisions are made, ``divergence`` how much
    of the reference is kept for them. ``noise_repetitions`` is how often to quantize again, to learn how far
    figures move (0: do not). ``narrate(title)`` opens a progress display.
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
    bounds: Bounds
    interpreters: Interpreters
    narrate: Callable[[str], AbstractContextManager[Progress]]

    def request_for(self, nodeid: str) -> Request:
        """What was asked for one test's baseline."""
        reason = self.reasons.get(nodeid, self.request.reason)
        return replace(self.request, reason=reason, reanchor=self.request.reanchor and reason is not None)
