"""The common part of GPTQ and AWQ: groups of weights that share a scale, and kernels for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from math import gcd
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ..errors import SpecError, UnavailableError
from ..models.model import Model
from ..spec import Option, QuantizeSpec
from .base import Job, Quantizer
from .kernels import AUTO, Kernel
from .normalize import normalize_checkpoint
from .presets import presets_of
from .shared_options import GROUP_SIZE

#: Group sizes to suggest where the requested one does not divide a layer.
_GROUPS = (16, 32, 64, 128, 256, 512, 1024)


class Adapter(Protocol):
    """A module that calls one backend, inside a worker process."""

    def quantize(self, job: Job) -> None:
        """Quantize ``job.model`` and save it to ``job.out``."""

    def load(self, spec: QuantizeSpec, checkpoint: Path, device: str, dtype: str) -> Any:
        """Load the saved checkpoint as a causal language model of transformers, in evaluation mode."""


def options_for(kernels: Mapping[str, Mapping[str, Kernel]]) -> tuple[Option, ...]:
    """Return the options of every method of this kind: backend, kernel, group size."""
    names = {name: None for known in kernels.values() for name in known}
    return (
        Option(
            "backend",
            str,
            None,
            "library that quantizes; default: the first of these that is installed",
            choices=tuple(kernels),
        ),
        Option(
            "kernel",
            str,
            AUTO,
            "kernel to compute with; auto: what the backend chooses",
            choices=(AUTO, *names),
        ),
        GROUP_SIZE,
    )


class Grouped(Quantizer):
    """A method that several backends can run, each through its adapter."""

    calibrates: ClassVar[bool] = True
    may_change: ClassVar[tuple[str, ...]] = ()
    #: The backends load a checkpoint themselves, onto one device, and repack its weights there.
    spreads: ClassVar[bool] = False
    offloads: ClassVar[bool] = False
    #: Kernels by name, of each backend.
    kernels: ClassVar[Mapping[str, Mapping[str, Kernel]]]

    @abstractmethod
    def adapters(self) -> Mapping[str, Adapter]:
        """Return the adapter of each backend, by the backend's name."""

    def check(self, spec: QuantizeSpec, model: Model, device: str, dtype: str) -> None:
        """Refuse a group size that does not divide every input width, and a spec that no kernel can run."""
        _require_group_divides(spec, model)
        _require_samples_fit(spec, model)
        self._require_kernel(spec, device, dtype)

    def _require_kernel(self, spec: QuantizeSpec, device: str, dtype: str) -> None:
        backend, wanted = spec.options["backend"], spec.options["kernel"]
        known = self.kernels[backend]
        if wanted != AUTO and wanted not in known:
            raise SpecError(
                f"backend {backend!r} has no kernel {wanted!r} for {spec.method}",
                given=f"kernel={wanted!r}",
                accepted=", ".join([AUTO, *known]),
                remedy="choose one of these, or another backend",
            )
        unmet = self._unmet(spec, backend, device, dtype)
        if all(unmet.values()):
            raise SpecError(
                f"no kernel of {backend} can run this {spec.method} checkpoint here"
                if wanted == AUTO
                else f"kernel {wanted!r} of {backend} cannot run this {spec.method} checkpoint",
                given=f"{spec}, device {device}, dtype {dtype}",
                accepted="; ".join(f"{name} {' and '.join(rows)}" for name, rows in unmet.items()),
                remedy=self._remedy(spec, device, dtype),
            )

    def _unmet(
        self, spec: QuantizeSpec, backend: str, device: str, dtype: str, kernel: str = ""
    ) -> dict[str, list[str]]:
        """Return, for each kernel that the spec allows, the requirements that it does not meet."""
        wanted = kernel or spec.options["kernel"]
        return {
            name: list(known.unmet(spec.options, device, dtype))
            for name, known in self.kernels[backend].items()
            if wanted == name or (wanted == AUTO and known.automatic)
        }

    def _remedy(self, spec: QuantizeSpec, device: str, dtype: str) -> str:
        """Name the single changes that would help: a dtype, a kernel, or another backend."""
        backend = spec.options["backend"]
        ways = [
            *((f"dtype={other!r}", (backend, device, other)) for other in ("bfloat16", "float16")),
            *((f"kernel={name!r}", (backend, device, dtype, name)) for name in self.kernels[backend]),
            *((f"backend={other!r}", (other, device, dtype, AUTO)) for other in self.kernels),
        ]
        fits = [way for way, place in ways if not all(self._unmet(spec, *place).values())]
        return f"set {' or '.join(fits)}" if fits else "change one of the listed values, or leave kernel out"

    def quantize(self, job: Job) -> None:
        """Quantize through the spec's backend and save."""
        self.adapters()[job.spec.options["backend"]].quantize(job)
        normalize_checkpoint(job.model, job.out)

    def load(self, spec: QuantizeSpec, checkpoint: Path, device: str, dtype: str) -> Any:
        """Load with the backend's own loader, or with that of another backend that reads the format."""
        name = self._loading_backend(spec)
        if name != spec.options["backend"]:  # each backend has its own names of kernels
            spec = replace(spec, options={**spec.options, "kernel": AUTO})
        model = self.adapters()[name].load(spec, checkpoint, device, dtype)
        if str(model.dtype).removeprefix("torch.") != dtype:
            raise SpecError(
                f"the loader chose {model.dtype} instead of the requested {dtype}",
                given=f"kernel={spec.options['kernel']!r}",
                remedy=f"set dtype={str(model.dtype).removeprefix('torch.')!r} in the marker",
            )
        return model.eval()

    def loader(self, spec: QuantizeSpec) -> str:
        """Return the backend whose loader is used here."""
        return self._loading_backend(spec)

    def _loading_backend(self, spec: QuantizeSpec) -> str:
        """Return the spec's backend if it is installed here, else the first that is.

        All backends of a method write the same format, so a checkpoint that was made in another
        environment can be loaded in this one.
        """
        for name in (spec.options["backend"], *self.adapters()):
            with suppress(PackageNotFoundError):
                distribution(name)
                return str(name)
        raise UnavailableError(
            f"no library that loads a {spec.method} checkpoint is installed in this environment",
            accepted=", ".join(self.adapters()),
            remedy=self.backend(spec).install,
        )


def _require_samples_fit(spec: QuantizeSpec, model: Model) -> None:
    length = spec.options["sample_length"]
    if length > model.maximum:
        raise SpecError(
            f"sample_length={length} exceeds the model's context",
            given=length,
            accepted=f"at most {model.maximum} tokens (the model's maximum)",
            remedy="lower sample_length in the marker",
        )


def _require_group_divides(spec: QuantizeSpec, model: Model) -> None:
    group = spec.options["group_size"]
    if group == -1:
        return
    misfits = {width: name for name, width in model.widths.items() if width % group}
    if not misfits:
        return
    common = gcd(*model.widths.values())
    divisors = [size for size in _GROUPS if common % size == 0]
    names = presets_of(spec.method, lambda options: options.get("group_size") in divisors)
    raise SpecError(
        f"group_size={group} does not divide the input width of every layer",
        given="; ".join(f"{name} is {width} wide" for width, name in sorted(misfits.items())[:3]),
        accepted=", ".join(f"group_size={size}" for size in divisors) or "group_size=-1, a group per row",
        remedy=f"use one of these, or the preset {' or '.join(names)}"
        if names
        else "use one of these (no preset of this method divides these widths)",
    )
