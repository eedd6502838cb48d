"""Making and measuring what one case compares: each in a worker process, or taken from the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .checkpoint import Store
from .device import Device
from .digest import fingerprint
from .errors import CheckpointError
from .interpreters import Interpreters
from .measure.corpus import Corpus
from .measure.size import ledger, quantized_layers
from .measurement import METRICS_VERSION, Measurement, Provenance, WindowNLL
from .models import TOKENIZER_FILES, Model
from .outcome import Case
from .progress import Progress
from .protocol import Protocol
from .quantizers import Backend, Quantizer, Registry, loading_backend, locate
from .quantizers.rounding import GROUP, ROUNDING_VERSION
from .weights import read_tensors, weights_digest
from .worker import Bounds, installed_versions, run_job

#: Scored tokens that the round-to-nearest floor is measured on at most: it is a yardstick for ruins.
_ROUNDED_TOKENS = 8192


@dataclass(frozen=True)
class Run:
    """What the cases of one pytest run share.

    ``root`` is where relative paths start. ``update`` and ``reason`` are the texts of
    ``--tenpak-update`` and ``--tenpak-accept``. ``narrate(title)`` opens a progress display.
    """

    root: Path
    store: Store
    registry: Registry
    baselines: Path
    choose_device: Callable[[], Device]
    update: str | None
    reason: str | None
    in_ci: bool
    skip_unavailable: bool
    batch_size: int
    bounds: Bounds
    interpreters: Interpreters
    narrate: Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Subject:
    """One directory to measure: who loads it, the facts of its making, and how its layers are rounded."""

    what: str
    directory: Path
    quantizer: Quantizer | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    rounding: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Bench:
    """One case with everything that its measurements have in common."""

    case: Case
    run: Run
    device: Device
    model: Model
    corpus: Corpus
    calibration: Corpus | None
    protocol: Protocol

    @property
    def dtype(self) -> str:
        """The torch type measured in. ``auto`` is float32 on CPU, else the model's own 16-bit type."""
        if self.case.dtype != "auto":
            return self.case.dtype
        own = self.model.dtype
        return own if self.device.family != "cpu" and own.endswith("16") else self.device.default_dtype

    # ------------------------------------------------------------ quantizing

    def quantize(self, quantizer: Quantizer) -> Subject:
        """The checkpoint of the case's spec, quantized in a worker process or taken from the store."""
        spec, texts = self.case.spec, self.calibration
        backend = quantizer.backend(spec)
        made_from = {
            "spec": spec.to_dict(),
            "device": self.device.device_class,
            "dtype": self.dtype,
            "model": self.model.digest,
            "calibration": texts.digest if texts else None,
            "versions": self._versions(backend),
            "source": _source(quantizer, self.run.store),
        }
        stored = self.run.store.directory("checkpoints", made_from, partial(self._quantize, quantizer))
        return Subject("checkpoint", stored.path, quantizer, stored.facts)

    def _quantize(self, quantizer: Quantizer, folder: Path) -> Mapping[str, Any]:
        spec, run = self.case.spec, self.run
        job = {
            "quantizer": locate(quantizer),
            "spec": spec.to_dict(),
            "device": self.device.torch_name,
            "dtype": self.dtype,
            "model": str(self.model.path),
            "out": str(folder),
            "calibration": list(self.calibration.documents) if self.calibration else [],
        }
        backend = quantizer.backend(spec).name
        with run.narrate(f"quantizing to {spec.title}") as progress:
            facts = run_job(
                run.store, "quantize", job, progress, run.bounds, run.interpreters.python(backend)
            )
        _require_whole(folder, spec.method)
        return facts

    # ------------------------------------------------------------ measuring

    def measure(self, subject: Subject) -> Measurement:
        """Measure in a fresh process, or take it from the cache when nothing changed."""
        quantizer, spec = subject.quantizer, self.case.spec
        quantized = subject.what == "checkpoint"
        identity = {
            "spec": spec.to_dict() if quantized else None,
            "model": self.model.digest,
            "tokenizer": self.model.tokenizer_digest,
            "corpus": self.corpus.digest,
            "calibration": self.calibration.digest if quantized and self.calibration else None,
            "protocol": self.protocol.to_dict(),
            "dtype": self.dtype,
            "metrics_version": METRICS_VERSION,
        }
        if quantizer:
            versions = self._versions(quantizer.backend(spec))
        else:
            backend = loading_backend(subject.directory)
            versions = installed_versions(*(backend.requires if backend else ()))
        made_from = {
            "identity": identity,
            "files": _files(subject.directory, self.run.store),
            "max_tokens": self._max_tokens(subject),
            "batch_size": self.run.batch_size,
            "device": [self.device.device_class, self.device.name],
            "versions": versions,
            "source": _source(quantizer, self.run.store) if quantizer else None,
            "rounding": [subject.rounding, ROUNDING_VERSION] if subject.rounding else None,
        }
        make = partial(self._measure, subject, identity, versions)
        return Measurement.from_dict(self.run.store.document("measurements", made_from, make))

    def measure_rounded(self, checkpoint: Path, counted: float | None) -> Measurement | None:
        """The model with the checkpoint's quantized layers rounded to nearest at the same bits, in memory.

        ``counted`` is the ledger's bits per weight, for methods that have no option of that name. None
        where no layer is quantized: there is nothing to round.
        """
        options = self.case.spec.options
        layers = quantized_layers(checkpoint, self.model.path)
        if not layers:
            return None
        rounding = {
            "layers": layers,
            "bits": max(2, options.get("bits") or int(counted or 16)),
            "group_size": options.get("group_size") or options.get("blocksize") or GROUP,
        }
        return self.measure(Subject("rounded model", self.model.path, rounding=rounding))

    def _max_tokens(self, subject: Subject) -> int:
        wanted = self.case.max_tokens
        return min(wanted or _ROUNDED_TOKENS, _ROUNDED_TOKENS) if subject.rounding else wanted

    def _measure(
        self, subject: Subject, identity: Mapping[str, Any], versions: Mapping[str, str]
    ) -> Mapping[str, Any]:
        run, quantizer, spec = self.run, subject.quantizer, self.case.spec
        counted = ledger(subject.directory, self.model.path)
        payload = {
            "directory": str(subject.directory),
            "quantizer": locate(quantizer) if quantizer else None,
            "spec": spec.to_dict(),
            "layers": quantized_layers(subject.directory, self.model.path),
            "rounding": subject.rounding,
            "documents": list(self.corpus.documents),
            "protocol": self.protocol.to_dict(),
            "max_tokens": self._max_tokens(subject),
            "device": self.device.torch_name,
            "dtype": self.dtype,
            "batch_size": run.batch_size,
        }
        python = run.interpreters.python(quantizer.backend(spec).name) if quantizer else None
        title = f"measuring the {subject.what}" + (f", {spec.title}" if quantizer else "")
        with run.narrate(title) as progress:
            answer = run_job(run.store, "measure", payload, progress, run.bounds, python)
        made = {"quantizer threads": str(subject.facts["threads"])} if "threads" in subject.facts else {}
        return Measurement(
            windows=WindowNLL(**answer["windows"]),
            ledger=counted,
            identity=identity,
            weights_digest=weights_digest(subject.directory),
            provenance=Provenance(versions, {**answer["device"], **made}),
            loader=answer["loader"],
            seconds=answer["seconds"],
        ).to_dict()

    def _versions(self, backend: Backend) -> dict[str, str]:
        """Versions of what shapes a figure, in the environment where the backend works."""
        ours = installed_versions()
        return {**ours, **self.run.interpreters.versions(backend.name, *ours, *backend.requires)}


def _require_whole(folder: Path, method: str) -> None:
    """Refuse what a quantizer left behind unless its weights can be read."""
    try:
        read_tensors(folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"method {method!r} left no whole checkpoint",
            given=error.given,
            accepted="weights as *.safetensors in job.out",
            remedy="save with save_pretrained(job.out)",
        ) from None


def _source(quantizer: Quantizer, store: Store) -> str:
    """Digest of the code that quantizes and loads: an edited recipe makes other checkpoints.

    For a class of ours that is the whole package of quantizers, since adapters do the work.
    """
    place = locate(quantizer)
    ours = place["module"].startswith(f"{__package__}.quantizers.")
    files = sorted(Path(place["file"]).parent.glob("*.py")) if ours else [Path(place["file"])]
    return fingerprint({file.name: store.file_digest(file) for file in files})


def _files(directory: Path, store: Store) -> Mapping[str, str]:
    """Digest of every file of a checkpoint that can change a figure."""
    wanted: Sequence[Path] = [
        *sorted(directory.glob("*.safetensors")),
        *(directory / name for name in ("config.json", *TOKENIZER_FILES)),
    ]
    return {path.name: store.file_digest(path) for path in wanted if path.is_file()}
