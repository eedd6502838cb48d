"""What a quantizer is: a declaration checked at collection, and two methods that run in a worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from ..errors import UnavailableError
from ..progress import Progress
from ..spec import Option, QuantizeSpec


@dataclass(frozen=True)
class Job:
    """One quantization, as a quantizer sees it in its worker process.

    ``model`` is the unquantized model's directory (safetensors and tokenizer), ``out`` an empty folder
    for the checkpoint. ``device`` is a torch device such as ``cpu`` or ``cuda:0``; ``dtype`` the torch
    type, by name, in which the checkpoint will be measured. ``calibration`` holds texts, and is empty
    unless the quantizer declares ``calibrates``.
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

    The class must be importable, or stand in a Python file of its own (a conftest will do): the worker
    process loads it again by name or by path.
    """

    #: The name users write in ``method=``.
    method: ClassVar[str]
    #: Options beyond the case's own, each with type, default and bounds.
    options: ClassVar[tuple[Option, ...]] = ()
    #: Distributions that must be installed.
    requires: ClassVar[tuple[str, ...]] = ()
    #: The pip line that installs them.
    install: ClassVar[str] = ""
    #: Whether it learns from calibration texts.
    calibrates: ClassVar[bool] = False

    def check(self, spec: QuantizeSpec, architecture: Mapping[str, Any]) -> None:  # noqa: B027 (optional)
        """Refuse, with SpecError, a spec that cannot fit a model; before any work.

        ``architecture`` is the model's config.json.
        """

    @abstractmethod
    def quantize(self, job: Job) -> None:
        """Quantize ``job.model`` and save the checkpoint, weights as safetensors, to ``job.out``.

        Runs in a worker process of its own. The tokenizer's files are copied by the caller.
        """

    def load(self, checkpoint: Path, device: str, dtype: str) -> Any:
        """The checkpoint as a model in evaluation mode with ``generate``; transformers' loader by default."""
        from .loading import load_pretrained

        return load_pretrained(checkpoint, device, dtype)

    def versions(self) -> dict[str, str]:
        """Version of every required distribution; raises UnavailableError when one is missing."""
        found = {}
        for name in self.requires:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                raise UnavailableError(
                    f"method {self.method!r} needs {name}, which is not installed",
                    accepted=", ".join(self.requires),
                    remedy=self.install or f"pip install {name}",
                ) from None
        return found
