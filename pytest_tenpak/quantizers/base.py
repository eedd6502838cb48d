"""The base class of quantizers: a declaration checked at collection, and two methods that run in a worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..errors import UnavailableError
from ..models.model import Model
from ..progress import Progress
from ..spec import Option, QuantizeSpec

#: The pip line that installs the libraries that measure, without any that quantizes.
MEASURING = "pip install 'pytest-tenpak[transformers]'"


@dataclass(frozen=True)
class Backend:
    """A third-party library that runs a method.

    ``requires`` names the distributions that must be installed where it runs, ``install`` the pip line
    that installs them. ``adapter_version`` is part of cache keys: see :attr:`Quantizer.adapter_version`.
    """

    name: str
    requires: tuple[str, ...]
    install: str = ""
    adapter_version: int = 1

    def install_line(self, python: Path | None = None) -> str:
        """Return the pip line that installs what the backend requires, in ``python`` if that is given."""
        if python is not None:
            return f"{python} -m pip install {' '.join(self.requires)}"
        return self.install or (f"pip install {' '.join(self.requires)}" if self.requires else MEASURING)

    def require(self, method: str, versions: Mapping[str, str], python: Path | None = None) -> None:
        """Raise UnavailableError when ``versions`` lacks a required distribution.

        ``python`` is the interpreter that these versions belong to, if it is not this one.
        """
        for name in self.requires:
            if name not in versions:
                raise UnavailableError(
                    f"method {method!r} needs {name}, which is not installed",
                    given=None if python is None else f"not found in {python}",
                    accepted=", ".join(self.requires),
                    remedy=self.install_line(python),
                )


@dataclass(frozen=True)
class Job:
    """One quantization, as a quantizer gets it in its worker process.

    ``model`` is the unquantized model's directory (safetensors and tokenizer), ``out`` an empty folder
    for the checkpoint. ``device`` is a torch device such as ``cpu`` or ``cuda:0``; ``dtype`` the torch
    type, by name, in which the checkpoint will be measured. ``calibration`` holds texts, and is empty
    unless the quantizer says that it needs them; :func:`~.calibration.draw_samples` turns them into
    token ids.
    """

    spec: QuantizeSpec
    model: Path
    out: Path
    device: str
    dtype: str
    calibration: Sequence[str]
    progress: Progress


class Quantizer(ABC):
    """One method of quantization. Subclasses declare; instances hold no state.

    The class must be importable, or defined in a Python file (a conftest will do): the worker process loads
    it again by name or by path.
    """

    #: The name users write in ``method=``.
    method: ClassVar[str]
    #: Options of the method, each with type, default and bounds, in addition to the marker's own arguments.
    options: ClassVar[tuple[Option, ...]] = ()
    #: Distributions that must be installed.
    requires: ClassVar[tuple[str, ...]] = ()
    #: The pip line that installs them.
    install: ClassVar[str] = ""
    #: Libraries that can run the method, the preferred one first, where users may choose one with
    #: ``backend=``; empty where ``requires`` is enough.
    backends: ClassVar[tuple[Backend, ...]] = ()
    #: Whether the method moves scales between layers: the audit undoes it.
    moves_scales: ClassVar[bool] = False
    #: Whether the method chooses other codes than the nearest, in a format that usually has these.
    compensates: ClassVar[bool] = False
    #: Names or patterns of tensors that the method changes without storing them quantized, which the audit
    #: accepts. Any, unless a method says so.
    may_change: ClassVar[tuple[str, ...]] = ("*",)
    #: Whether the method needs calibration texts; with some options only: see :meth:`needs_calibration`.
    calibrates: ClassVar[bool] = False
    #: Whether a checkpoint's layers can be on several devices, as :func:`~.loading.load_pretrained` has them.
    spreads: ClassVar[bool] = True
    #: Whether they can be in host memory or on disk, too, and be brought to a device when they run.
    offloads: ClassVar[bool] = True
    #: Increased whenever a change of this package's code changes checkpoints or how they are loaded, so that
    #: cached ones are not used again. For classes of other packages the source file is digested instead.
    adapter_version: ClassVar[int] = 1

    def choices(self) -> tuple[Backend, ...]:
        """Return the libraries that can run the method: ``backends``, or the one that ``requires`` names."""
        name = self.requires[0] if self.requires else self.method
        return self.backends or (Backend(name, self.requires, self.install, self.adapter_version),)

    def backend(self, spec: QuantizeSpec) -> Backend:
        """Return the library that runs ``spec``."""
        chosen, choices = spec.options.get("backend"), self.choices()
        return next((backend for backend in choices if backend.name == chosen), choices[0])

    def needs_calibration(self, spec: QuantizeSpec) -> bool:  # noqa: ARG002
        """Return whether a spec of the method needs calibration texts: by default ``calibrates``."""
        return self.calibrates

    def check(  # noqa: B027 (optional)
        self, spec: QuantizeSpec, model: Model, device: str, dtype: str
    ) -> None:
        """Raise SpecError, before any work, for a spec that is impossible with a model.

        ``model.architecture`` is the model's config.json, ``model.widths`` the input widths of its
        linear layers. ``device`` (``cpu`` or ``cuda``) and ``dtype`` (a torch type by name) are those that
        the checkpoint will be measured with.
        """

    @abstractmethod
    def quantize(self, job: Job) -> None:
        """Quantize ``job.model`` and save the checkpoint, weights as safetensors, to ``job.out``.

        Runs in a worker process of its own. The tokenizer's files are copied by the caller.
        """

    def load(self, spec: QuantizeSpec, checkpoint: Path, device: str, dtype: str) -> Any:  # noqa: ARG002
        """Load the checkpoint as a model in evaluation mode with ``generate``, by default by transformers."""
        from .loading import load_pretrained

        return load_pretrained(checkpoint, device, dtype)

    def loader(self, spec: QuantizeSpec) -> str:  # noqa: ARG002
        """Return the distribution whose loader :meth:`load` uses."""
        return "transformers"
