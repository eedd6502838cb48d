"""One case on one corpus: what it quantizes and measures, with its cache keys and its identity."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..baselines.identity import PART
from ..errors import CheckpointError
from ..evaluation.corpus import Corpus
from ..evaluation.kept_texts import save_documents
from ..evaluation.protocol import Protocol
from ..evaluation.trace import TRACE_VERSION
from ..execution.jobs import QuantizeJob, Rounding, Text
from ..machines.device import Device
from ..metrics.measurement import METRICS_VERSION
from ..models.files import files_to_load
from ..models.ledger import LEDGER_VERSION, Contents, read_contents
from ..models.model import Model
from ..models.safetensors_files import read_tensors, weights_digest
from ..quantizers.base import Backend, Quantizer
from ..quantizers.interpreters import installed_versions
from ..quantizers.locate import locate
from ..quantizers.registry import loading_backend
from ..quantizers.rounding import GROUP, ROUNDING_VERSION
from .case import Case
from .run import Run

#: The distribution of this package. Its version is not in cache keys, since a release by itself changes no
#: figure; METRICS_VERSION and the versions of adapters are.
_OURS = "pytest-tenpak"
#: What quantizing needs, in multiples of what loading the model does: copies, activations, Hessians.
_QUANTIZING = 2.0


@dataclass(frozen=True)
class Subject:
    """One directory to measure: its loader, facts from quantizing it, and how its layers are rounded."""

    what: str
    directory: Path
    quantizer: Quantizer | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    rounding: Rounding | None = None

    @property
    def is_reference(self) -> bool:
        """Whether this is the unquantized model, which checkpoints are compared with."""
        return self.what == "reference"


@dataclass(frozen=True)
class Experiment:
    """One case on one corpus, with everything that its measurements have in common.

    ``threads`` is the number that a worker measures with; 0 leaves it to torch. ``repetition`` numbers the
    requantizations of a recipe that calibrate its noise; 0 is the checkpoint that is gated.
    """

    case: Case
    run: Run
    device: Device
    model: Model
    corpus: Corpus
    calibration: Corpus | None
    protocol: Protocol
    threads: int = 0
    repetition: int = 0

    @property
    def dtype(self) -> str:
        """The torch type to measure in. ``auto`` is float32 on CPU, else the model's own 16-bit type."""
        if self.case.dtype != "auto":
            return self.case.dtype
        own = self.model.dtype
        return own if self.device.family != "cpu" and own.endswith("16") else self.device.default_dtype

    # ------------------------------------------------------------ quantizing

    def quantize(self, quantizer: Quantizer) -> Subject:
        """Return the checkpoint of the case's spec, quantized in a worker process or taken from the store."""
        cache_key = self.checkpoint_key(quantizer)
        stored = self.run.store.directory("checkpoints", cache_key, partial(self._quantize, quantizer))
        return Subject("checkpoint", stored.path, quantizer, stored.facts)

    def is_quantized(self, quantizer: Quantizer) -> bool:
        """Return whether the store has the checkpoint, so that :meth:`quantize` takes no time."""
        return self.run.store.has("checkpoints", self.checkpoint_key(quantizer))

    def checkpoint_key(self, quantizer: Quantizer) -> dict[str, Any]:
        """Return the cache key of the case's checkpoint: everything that can change its bytes."""
        backend, texts = quantizer.backend(self.case.spec), self.calibration
        return {
            "spec": self.case.spec.to_dict(),
            "device": [self.device.device_class, self.device.settings],
            "dtype": self.dtype,
            "model": self.model.digest,
            "files": self.files(self.model.path),
            "calibration": texts.digest if texts else None,
            "versions": _libraries(self._versions(backend)),
            "adapter": self._adapter(quantizer),
            **({"repetition": self.repetition} if self.repetition else {}),
        }

    def _quantize(self, quantizer: Quantizer, folder: Path) -> Mapping[str, Any]:
        spec, run = self.case.spec, self.run
        job = QuantizeJob(
            quantizer=locate(quantizer),
            spec=spec,
            model=self.model.path,
            out=folder,
            device=self.device.torch_name,
            dtype=self.dtype,
            calibration=self._documents(self.calibration) if self.calibration else None,
        )
        python = run.interpreter(quantizer, spec)
        with run.show_progress(f"quantizing to {spec.title}") as progress:
            run.workers.make_room(self.model.path, self.device.torch_name, times=_QUANTIZING)
            facts = run.do_once(job, progress, python)
        _require_whole(folder, spec.method)
        return facts

    # ------------------------------------------------------------ measuring

    def identity(self, subject: Subject) -> dict[str, Any]:
        """Return the identity of ``subject``: what must be equal for figures to be comparable."""
        quantized = subject.what == "checkpoint"
        return {
            "spec": self.case.spec.to_dict() if quantized else None,
            "model": self.model.digest,
            "tokenizer": self.model.tokenizer_digest,
            "corpus": self.corpus.digest,
            **({PART: self.corpus.part} if self.corpus.part else {}),
            "calibration": self.calibration.digest if quantized and self.calibration else None,
            "protocol": self.protocol.to_dict(),
            "dtype": self.dtype,
            "metrics_version": METRICS_VERSION,
        }

    def text(self) -> Text:
        """Return the corpus as jobs name it: its documents are in the store, and its tokens once made."""
        tokens = self.run.store.growing("tokens", {"text": self.corpus.digest})
        return Text(self._documents(self.corpus), tokens, self.corpus.part)

    def _documents(self, corpus: Corpus) -> Path:
        make = partial(save_documents, corpus.documents)
        return self.run.store.directory("texts", {"text": corpus.digest}, make).path

    def versions(self, subject: Subject) -> dict[str, str]:
        """Return versions of the libraries behind the figures of ``subject``."""
        if subject.quantizer:
            return self._versions(subject.quantizer.backend(self.case.spec))
        backend = loading_backend(subject.directory)
        return installed_versions(*(backend.requires if backend else ()))

    def cache_key(self, subject: Subject) -> dict[str, Any]:
        """Return the cache key of the windows of ``subject``: everything that can change a figure."""
        rounding = subject.rounding
        return {
            "identity": self.identity(subject),
            "trace": TRACE_VERSION,
            "files": self.files(subject.directory),
            "batch_size": self.run.batch_size,
            "threads": self.threads,
            "device": [self.device.device_class, self.device.name, self.device.settings],
            "versions": _libraries(self.versions(subject)),
            "adapter": self._adapter(subject.quantizer) if subject.quantizer else None,
            "rounding": [asdict(rounding), ROUNDING_VERSION] if rounding else None,
        }

    def weights_digest(self, subject: Subject) -> str:
        """Return the digest of the stored weights of ``subject``."""
        path = subject.directory
        cache_key = {"files": self.files(path)}
        found = self.run.store.document("weights", cache_key, lambda: {"digest": weights_digest(path)})
        return str(found["digest"])

    def contents(
        self, subject: Subject, unread: Collection[str] = (), own_unread: Collection[str] = ()
    ) -> Contents:
        """Return what ``subject`` stores of the model, as :func:`read_contents` does."""
        path, model = subject.directory, self.model.path
        cache_key = {
            "files": self.files(path),
            "model": self.files(model),
            "unread": [sorted(unread), sorted(own_unread)],
            "version": LEDGER_VERSION,
        }

        def read() -> dict[str, Any]:
            return read_contents(path, model, unread, own_unread).to_dict()

        return Contents.from_dict(self.run.store.document("contents", cache_key, read))

    def rounded(self, checkpoint: Subject) -> Subject | None:
        """Return the model with the checkpoint's quantized layers rounded to nearest, at the same bits.

        For methods without an option ``bits`` the ledger's bits per weight count. None where no layer is
        quantized: there is nothing to round.
        """
        options, contents = self.case.spec.options, self.contents(checkpoint)
        if not contents.layers:
            return None
        counted = contents.ledger.bits_per_weight
        rounding = Rounding(
            layers=contents.layers,
            bits=max(2, options.get("bits") or int(counted or 16)),
            group_size=options.get("group_size") or options.get("blocksize") or GROUP,
        )
        return Subject("rounded model", self.model.path, rounding=rounding)

    def _versions(self, backend: Backend) -> dict[str, str]:
        """Return versions of the libraries behind a figure, in the environment where the backend runs."""
        ours = installed_versions()
        return {**ours, **self.run.interpreters.versions(backend.name, *ours, *backend.requires)}

    def _adapter(self, quantizer: Quantizer) -> dict[str, Any]:
        """Return what identifies the code that quantizes and loads: other code may make other checkpoints.

        Our adapters have versions; for a class of another package the source file is digested.
        """
        place = locate(quantizer)
        if place.is_ours:
            backend = quantizer.backend(self.case.spec)
            return {"backend": backend.name, "version": backend.adapter_version}
        return {"source": self.run.store.file_digest(Path(place.file))}

    def files(self, directory: Path) -> Mapping[str, str]:
        """Return the digest of every file that a loader may read from a directory of weights, by name."""
        return {
            str(path.relative_to(directory)): self.run.store.file_digest(path)
            for path in files_to_load(directory)
        }


def _libraries(versions: Mapping[str, str]) -> dict[str, str]:
    """Return the versions that belong in a cache key: all but that of this package."""
    return {name: version for name, version in versions.items() if name != _OURS}


def _require_whole(folder: Path, method: str) -> None:
    """Raise CheckpointError unless the weights that a quantizer saved can be read."""
    try:
        read_tensors(folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"method {method!r} did not save a complete checkpoint",
            given=error.given,
            accepted="weights as *.safetensors in job.out",
            remedy="save with save_pretrained(job.out)",
        ) from None
