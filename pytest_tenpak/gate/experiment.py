"""Making and measuring what one case compares: each in a worker process, or taken from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..evaluation.corpus import Corpus
from ..evaluation.protocol import Protocol
from ..execution.process import run_job
from ..metrics.measurement import METRICS_VERSION, Ledger
from ..models.ledger import ledger, quantized_layers
from ..models.locate import TOKENIZER_FILES
from ..models.model import Model
from ..models.safetensors_files import read_tensors, weights_digest
from ..quantizers.base import Backend, Quantizer
from ..quantizers.interpreters import installed_versions
from ..quantizers.locate import locate
from ..quantizers.registry import loading_backend
from ..quantizers.rounding import GROUP, ROUNDING_VERSION
from ..store.digest import fingerprint
from ..store.store import Store
from .case import Case
from .device import Device
from .run import Run


@dataclass(frozen=True)
class Subject:
    """One directory to measure: who loads it, the facts of its making, and how its layers are rounded."""

    what: str
    directory: Path
    quantizer: Quantizer | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    rounding: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Experiment:
    """One case, on one corpus, with everything that its measurements have in common.

    ``threads`` is how many a worker measures with; 0 leaves it to torch. ``take`` numbers the draws of a
    recipe that is quantized again to learn how much that moves; 0 is the one that counts.
    """

    case: Case
    run: Run
    device: Device
    model: Model
    corpus: Corpus
    calibration: Corpus | None
    protocol: Protocol
    threads: int = 0
    take: int = 0

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
            **({"take": self.take} if self.take else {}),
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

    def identity(self, subject: Subject) -> dict[str, Any]:
        """Which question measuring ``subject`` answers: what has to agree for figures to compare."""
        quantized = subject.what == "checkpoint"
        return {
            "spec": self.case.spec.to_dict() if quantized else None,
            "model": self.model.digest,
            "tokenizer": self.model.tokenizer_digest,
            "corpus": self.corpus.digest,
            "calibration": self.calibration.digest if quantized and self.calibration else None,
            "protocol": self.protocol.to_dict(),
            "dtype": self.dtype,
            "metrics_version": METRICS_VERSION,
        }

    def versions(self, subject: Subject) -> dict[str, str]:
        """Versions of what shapes the figures of ``subject``."""
        if subject.quantizer:
            return self._versions(subject.quantizer.backend(self.case.spec))
        backend = loading_backend(subject.directory)
        return installed_versions(*(backend.requires if backend else ()))

    def made_from(self, subject: Subject) -> dict[str, Any]:
        """Everything that can change a figure of ``subject``: what its windows are kept under."""
        return {
            "identity": self.identity(subject),
            "files": _files(subject.directory, self.run.store),
            "batch_size": self.run.batch_size,
            "threads": self.threads,
            "device": [self.device.device_class, self.device.name],
            "versions": self.versions(subject),
            "source": _source(subject.quantizer, self.run.store) if subject.quantizer else None,
            "rounding": [subject.rounding, ROUNDING_VERSION] if subject.rounding else None,
        }

    def weights(self, subject: Subject) -> Mapping[str, Any]:
        """``ledger`` and ``digest`` of the stored weights of ``subject``, read once."""
        store, path = self.run.store, subject.directory
        files = {"files": _files(path, store), "model": self.model.digest}

        def read() -> dict[str, Any]:
            return {"ledger": asdict(ledger(path, self.model.path)), "digest": weights_digest(path)}

        return store.document("weights", files, read)

    def payload(self, subject: Subject) -> dict[str, Any]:
        """What a worker needs to load and run ``subject``."""
        quantizer = subject.quantizer
        return {
            "directory": str(subject.directory),
            "quantizer": locate(quantizer) if quantizer else None,
            "spec": self.case.spec.to_dict(),
            "layers": quantized_layers(subject.directory, self.model.path),
            "rounding": subject.rounding,
            "documents": list(self.corpus.documents),
            "protocol": self.protocol.to_dict(),
            "device": self.device.torch_name,
            "dtype": self.dtype,
            "batch_size": self.run.batch_size,
            "threads": self.threads,
        }

    def rounded(self, checkpoint: Path) -> Subject | None:
        """The model with the checkpoint's quantized layers rounded to nearest at the same bits, in memory.

        For methods that have no option of that name the ledger's bits per weight count. None where no
        layer is quantized: there is nothing to round.
        """
        options = self.case.spec.options
        layers = quantized_layers(checkpoint, self.model.path)
        if not layers:
            return None
        counted = Ledger(**self.weights(Subject("checkpoint", checkpoint))["ledger"]).bits_per_weight
        rounding = {
            "layers": layers,
            "bits": max(2, options.get("bits") or int(counted or 16)),
            "group_size": options.get("group_size") or options.get("blocksize") or GROUP,
        }
        return Subject("rounded model", self.model.path, rounding=rounding)

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
    files = sorted(Path(place["file"]).parent.rglob("*.py")) if ours else [Path(place["file"])]
    return fingerprint({file.name: store.file_digest(file) for file in files})


def _files(directory: Path, store: Store) -> Mapping[str, str]:
    """Digest of every file of a checkpoint that can change a figure."""
    wanted: Sequence[Path] = [
        *sorted(directory.glob("*.safetensors")),
        *(directory / name for name in ("config.json", *TOKENIZER_FILES)),
    ]
    return {path.name: store.file_digest(path) for path in wanted if path.is_file()}
