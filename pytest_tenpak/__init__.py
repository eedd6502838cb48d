"""A pytest plugin and regression gate for quantized language models.

The names below are the public interface for plugins, conftests and reporters. Each is imported on first use:
importing the package costs nothing, and imports neither numpy nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .baselines.history import Past
    from .errors import SpecError, TenpakError, UnavailableError
    from .execution.executor import Executor, Needs, Standing, State
    from .execution.submission import Submission
    from .gate.case import Case
    from .gate.outcome import Outcome, Part
    from .gate.summary import Summary
    from .metrics.measurement import Ledger, Measurement, Windows
    from .models.model import Model
    from .quantizers.base import Backend, Job, Quantizer
    from .quantizers.calibration import draw_samples
    from .quantizers.loading import load_pretrained
    from .spec import Option, QuantizeSpec
    from .verdict.checks import Check, Status, Verdict

#: Each public name, by the module that defines it.
_HOMES = {
    "baselines.history": ("Past",),
    "errors": ("SpecError", "TenpakError", "UnavailableError"),
    "execution.executor": ("Executor", "Needs", "Standing", "State"),
    "execution.submission": ("Submission",),
    "gate.case": ("Case",),
    "gate.outcome": ("Outcome", "Part"),
    "gate.summary": ("Summary",),
    "metrics.measurement": ("Ledger", "Measurement", "Windows"),
    "models.model": ("Model",),
    "quantizers.base": ("Backend", "Job", "Quantizer"),
    "quantizers.calibration": ("draw_samples",),
    "quantizers.loading": ("load_pretrained",),
    "spec": ("Option", "QuantizeSpec"),
    "verdict.checks": ("Check", "Status", "Verdict"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - as a reader needs them: for quantizers, for executors, for reporters, errors
    "Quantizer",
    "Job",
    "Option",
    "QuantizeSpec",
    "Backend",
    "Model",
    "load_pretrained",
    "draw_samples",
    "Executor",
    "Submission",
    "Needs",
    "Standing",
    "State",
    "Summary",
    "Outcome",
    "Case",
    "Part",
    "Measurement",
    "Windows",
    "Ledger",
    "Verdict",
    "Check",
    "Status",
    "Past",
    "TenpakError",
    "SpecError",
    "UnavailableError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
