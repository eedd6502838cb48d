"""The whole flow of one case: model → checkpoint → measurement ↔ reference, baseline → verdict → outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .baseline import Baseline, Entry
from .checkpoint import Store
from .device import Device
from .errors import CheckpointError, ModelError, TenpakError, UnavailableError, file_error
from .interpreters import Interpreters
from .measure.corpus import Corpus, load_corpus
from .measure.size import ledger
from .measurement import METRICS_VERSION, Measurement, Provenance, WindowNLL
from .models import TOKENIZER_FILES, Model, describe_model, locate_model
from .outcome import Case, Outcome
from .progress import Progress
from .protocol import Protocol
from .quantizers import Quantizer, Registry, locate
from .update import Update, decide
from .verdict import Check, Status, Verdict, compare
from .weights import read_tensors, weights_digest
from .worker import Bounds, installed_versions, run_job


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


def evaluate(case: Case, run: Run, find: Callable[[], str | None]) -> Outcome:
    """Answer one case. What a user can mend comes back as an outcome of status ``error``, not raised.

    ``find`` names the model where the case does not.
    """
    path = run.baselines / f"{case.name}.json"
    shown = str(path.relative_to(run.root)) if path.is_relative_to(run.root) else str(path)
    try:
        case = case if case.model is not None else replace(case, model=find())
        return replace(_evaluate(case, run, Baseline.read(path)), baseline=shown)
    except TenpakError as error:
        return replace(_not_measured(case, run, error.asked_by(case.nodeid)), baseline=shown)
    except OSError as fault:
        return replace(_not_measured(case, run, file_error(fault).asked_by(case.nodeid)), baseline=shown)


def _evaluate(case: Case, run: Run, baseline: Baseline | None) -> Outcome:
    device = run.choose_device()
    model = find_model(case.model, run)
    bench = _Bench(
        case,
        run,
        device,
        model,
        corpus=load_corpus(case.corpus, run.root),
        calibration=load_corpus(case.calibration, run.root) if case.calibration else None,
        protocol=Protocol.resolve(case.protocol, case.context, case.stride, model.maximum),
    )
    source = _find_checkpoint(case, run) if case.checkpoint else _check_quantizer(case, run, model)
    # The reference comes first: a corpus that cannot be measured on is found before hours of quantizing.
    reference = bench.measure(model.path, None, "reference")
    quantizer = source if isinstance(source, Quantizer) else None
    checkpoint = _quantize(bench, source) if isinstance(source, Quantizer) else source
    measurement = bench.measure(checkpoint, quantizer, "checkpoint")
    old = baseline.entries.get(device.device_class) if baseline else None
    verdict = compare(measurement, reference, old, case.limits, case.tolerances)
    new = None if verdict.status is Status.ERROR else Entry.of(measurement, reference)
    return Outcome(
        case=case,
        verdict=verdict,
        update=decide(verdict, run.update, run.reason, run.in_ci, old, new),
        device_class=device.device_class,
        checkpoint=str(checkpoint),
        measurement=measurement,
        reference=reference,
        changes=tuple(old.provenance.differences(measurement.provenance)) if old else (),
    )


def _not_measured(case: Case, run: Run, error: TenpakError) -> Outcome:
    """An outcome without figures: never a pass, and a skip only where that was allowed."""
    may_skip = isinstance(error, UnavailableError) and (case.may_skip or run.skip_unavailable)
    check = Check("measured", "sanity", Status.ERROR, evidence=error.problem)
    return Outcome(
        case=case,
        verdict=Verdict((check,)),
        update=Update(write=False, passes=False),
        problem=str(error),
        skipped=may_skip,
    )


def find_model(reference: str | None, run: Run) -> Model:
    """The model under test on disk; a GGUF file is dequantized into the store once."""
    if reference is None:
        raise ModelError(
            "no model was named",
            accepted="model= in the marker, the fixture tenpak_model, --tenpak-model, or ini tenpak_model",
            remedy="for example: pytest --tenpak-model=path/to/model",
        )
    path = locate_model(reference, run.root)
    if path.is_dir():
        return describe_model(path, run.store)

    def convert(folder: Path) -> Mapping[str, Any]:
        with run.narrate(f"converting {path.name}") as progress:
            job = {"file": str(path), "out": str(folder)}
            return run_job(run.store, "convert", job, progress, run.bounds)

    versions = installed_versions("gguf")
    if "gguf" not in versions:
        raise UnavailableError(
            f"reading {path.name} needs the gguf library, which is not installed",
            remedy="pip install 'pytest-tenpak[gguf]'",
        )
    made_from = {"gguf": run.store.file_digest(path), "transformers": versions.get("transformers")}
    return describe_model(run.store.directory("models", made_from, convert).path, run.store, source=path)


def _find_checkpoint(case: Case, run: Run) -> Path:
    """The folder of a checkpoint that somebody else made, its files checked for wholeness."""
    folder = run.root / Path(case.checkpoint or "").expanduser()
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"there is no checkpoint {case.checkpoint!r}",
            given=f"{folder} has no config.json" if folder.is_dir() else f"{folder} does not exist",
            accepted="a directory that transformers can load, tokenizer included",
        )
    read_tensors(folder)
    return folder


def _check_quantizer(case: Case, run: Run, model: Model) -> Quantizer:
    """The quantizer of the case's method, its libraries there and its spec fit for the model."""
    quantizer = run.registry[case.spec.method]
    quantizer.versions()
    quantizer.check(case.spec, model.architecture)
    return quantizer


def _quantize(bench: _Bench, quantizer: Quantizer) -> Path:
    """The checkpoint of the case's spec, quantized in a worker process or taken from the store."""
    case, run, texts = bench.case, bench.run, bench.calibration
    made_from = {
        "spec": case.spec.to_dict(),
        "device": bench.device.device_class,
        "dtype": bench.dtype,
        "model": bench.model.digest,
        "calibration": texts.digest if texts else None,
        "versions": {**installed_versions(), **quantizer.versions()},
        "source": _source(quantizer, run.store),
    }

    def quantize(folder: Path) -> Mapping[str, Any]:
        job = {
            "quantizer": locate(quantizer),
            "spec": case.spec.to_dict(),
            "device": bench.device.torch_name,
            "dtype": bench.dtype,
            "model": str(bench.model.path),
            "out": str(folder),
            "calibration": list(texts.documents) if texts else [],
        }
        with run.narrate(f"quantizing to {case.spec.method}") as progress:
            facts = run_job(run.store, "quantize", job, progress, run.bounds)
        _require_whole(folder, case.spec.method)
        return facts

    return run.store.directory("checkpoints", made_from, quantize).path


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


@dataclass(frozen=True)
class _Bench:
    """One case with everything that its two measurements have in common."""

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
        return own if self.device.device_class != "cpu" and own.endswith("16") else self.device.default_dtype

    def measure(self, directory: Path, quantizer: Quantizer | None, what: str) -> Measurement:
        """Measure a directory in a fresh process, or take it from the cache when nothing changed."""
        versions = {**installed_versions(), **(quantizer.versions() if quantizer else {})}
        quantized = what != "reference"
        identity = {
            "spec": self.case.spec.to_dict() if quantized else None,
            "model": self.model.digest,
            "tokenizer": self.model.tokenizer_digest,
            "corpus": self.corpus.digest,
            "calibration": self.calibration.digest if quantized and self.calibration else None,
            "protocol": self.protocol.to_dict(),
            "dtype": self.dtype,
            "metrics_version": METRICS_VERSION,
        }
        made_from = {
            "identity": identity,
            "files": _files(directory, self.run.store),
            "max_tokens": self.case.max_tokens,
            "batch_size": self.run.batch_size,
            "device": [self.device.device_class, self.device.name],
            "versions": versions,
            "source": _source(quantizer, self.run.store) if quantizer else None,
        }
        make = partial(self._measure, directory, quantizer, what, identity, versions)
        return Measurement.from_dict(self.run.store.document("measurements", made_from, make))

    def _measure(
        self,
        directory: Path,
        quantizer: Quantizer | None,
        what: str,
        identity: Mapping[str, Any],
        versions: Mapping[str, str],
    ) -> Mapping[str, Any]:
        counted = ledger(directory, self.model.path)
        payload = {
            "directory": str(directory),
            "quantizer": locate(quantizer) if quantizer else None,
            "documents": list(self.corpus.documents),
            "protocol": self.protocol.to_dict(),
            "max_tokens": self.case.max_tokens,
            "device": self.device.torch_name,
            "dtype": self.dtype,
            "batch_size": self.run.batch_size,
        }
        title = f"measuring the {what}" + (f" ({self.case.spec.method})" if quantizer else "")
        with self.run.narrate(title) as progress:
            answer = run_job(self.run.store, "measure", payload, progress, self.run.bounds)
        return Measurement(
            windows=WindowNLL(**answer["windows"]),
            ledger=counted,
            identity=identity,
            weights_digest=weights_digest(directory),
            provenance=Provenance(versions, answer["device"]),
            loader=f"transformers {versions.get('transformers', '')}".strip(),
            seconds=answer["seconds"],
        ).to_dict()


def _source(quantizer: Quantizer, store: Store) -> str:
    """Digest of the file that defines a quantizer: an edited recipe makes other checkpoints."""
    return store.file_digest(Path(locate(quantizer)["file"]))


def _files(directory: Path, store: Store) -> Mapping[str, str]:
    """Digest of every file of a checkpoint that can change a figure."""
    wanted: Sequence[Path] = [
        *sorted(directory.glob("*.safetensors")),
        *(directory / name for name in ("config.json", *TOKENIZER_FILES)),
    ]
    return {path.name: store.file_digest(path) for path in wanted if path.is_file()}
