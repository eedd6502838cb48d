"""The inputs of a case: located, read and checked before any work is done."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, CorpusError, ModelError, OverlapError, UnavailableError, named
from ..evaluation.corpus import Corpus, load_corpus
from ..evaluation.overlap import OVERLAP_VERSION, overlap
from ..evaluation.protocol import Protocol
from ..execution.jobs import ConvertJob
from ..machines.device import Device
from ..models.convert import CONVERSION_VERSION
from ..models.locate import locate_model
from ..models.model import Model, describe_model
from ..models.preflight import require_consistent, require_readable
from ..quantizers.base import MEASURING, Quantizer
from ..quantizers.interpreters import installed_versions
from ..quantizers.locate import locate
from ..quantizers.registry import loading_backend
from .case import Case
from .experiment import Experiment, Subject
from .run import Run


def set_up(case: Case, run: Run, device: Device) -> list[Experiment]:
    """Make the experiments of a case, one for each corpus."""
    _require_measuring(case, run)
    model = find_model(case.model, run)
    calibration = _load_calibration(case, run)
    protocol = Protocol.resolve(case.protocol, case.context, case.stride, model.maximum)
    corpora = [load_corpus(corpus, run.root, case.max_tokens) for corpus in case.corpus]
    return [Experiment(case, run, device, model, corpus, calibration, protocol) for corpus in corpora]


def find_source(experiment: Experiment) -> Quantizer | Subject:
    """Return the quantizer, checked for model and device, or the checkpoint, if that was made elsewhere."""
    if experiment.case.checkpoint:
        return Subject("checkpoint", _find_checkpoint(experiment.case, experiment.run))
    spec, interpreters = experiment.case.spec, experiment.run.interpreters
    quantizer = experiment.run.registry[spec.method]
    backend = quantizer.backend(spec)
    found = interpreters.versions(backend.name, *backend.requires)
    backend.require(spec.method, found, interpreters.python(backend.name))
    quantizer.check(spec, experiment.model, experiment.device.family, experiment.dtype)
    return quantizer


def missing_libraries() -> list[str]:
    """List the libraries needed for measuring that are not installed in this environment."""
    return sorted({"torch", "transformers"} - installed_versions().keys())


def _require_measuring(case: Case, run: Run) -> None:
    """Raise UnavailableError where the libraries that measure are not installed."""
    missing = missing_libraries()
    if not missing:
        return
    spec = case.spec
    install = "" if case.checkpoint else run.registry[spec.method].backend(spec).install_line()
    verb = "is" if len(missing) == 1 else "are"
    raise UnavailableError(
        f"measuring needs {' and '.join(missing)}, which {verb} not installed",
        accepted="torch and transformers, which the extra of each backend installs",
        remedy=install or MEASURING,
    )


def find_model(reference: str | None, run: Run) -> Model:
    """Find the model under test on disk; a GGUF file is dequantized into the store once."""
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
        with run.show_progress(f"converting {path.name}") as progress:
            return run.do_once(ConvertJob(path, folder), progress)

    versions = installed_versions("gguf")
    if "gguf" not in versions:
        raise UnavailableError(
            f"reading {path.name} needs the gguf library, which is not installed",
            remedy="pip install 'pytest-tenpak[gguf]'",
        )
    cache_key = {
        "gguf": run.store.file_digest(path),
        "transformers": versions.get("transformers"),
        "conversion": CONVERSION_VERSION,
    }
    return describe_model(run.store.directory("models", cache_key, convert).path, run.store, source=path)


def _load_calibration(case: Case, run: Run) -> Corpus | None:
    """Load the calibration text; errors name the argument ``calibration``."""
    if not case.calibration:
        return None
    try:
        return load_corpus(case.calibration, run.root)
    except CorpusError as error:
        raise error.asked_by(f"{case.nodeid}, calibration={case.calibration!r}") from None


def _find_checkpoint(case: Case, run: Run) -> Path:
    """Find the folder of a checkpoint that was made elsewhere, and check that its files are complete."""
    folder = run.root / Path(case.checkpoint or "").expanduser()
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"there is no checkpoint {case.checkpoint!r}",
            given=f"{folder} has no config.json" if folder.is_dir() else f"{folder} does not exist",
            accepted="a directory that transformers can load, tokenizer included",
        )
    require_consistent(folder, require_readable(folder))
    backend = loading_backend(folder)
    if backend is not None:
        backend.require("checkpoint", installed_versions(*backend.requires))
    return folder


def measure_overlap(experiment: Experiment) -> float:
    """Return the share of calibration text or corpus that was copied from the other; 0 without calibration.

    Raises OverlapError where it is more than the case allows.
    """
    texts, corpus, most = experiment.calibration, experiment.corpus, experiment.case.max_overlap
    if texts is None:
        return 0.0
    cache_key = {"calibration": texts.digest, "corpus": corpus.digest, "version": OVERLAP_VERSION}
    store = experiment.run.store
    share = float(store.document("overlaps", cache_key, lambda: {"share": overlap(texts, corpus)})["share"])
    if share > most:
        raise OverlapError(
            "the calibration text overlaps the evaluation corpus, so figures would look better than they are",
            given=f"calibration={texts.name!r}, corpus={corpus.name!r}: {share:.1%} was copied",
            accepted=f"at most {most:.1%}, in stretches of 256 characters or whole documents",
            remedy="calibrate on another text: a validation split, or other documents of the same kind; "
            "or allow it with max_overlap= in the marker",
        )
    return share


def refuse_incomplete(experiment: Experiment, subject: Subject, unread: Collection[str]) -> None:
    """Raise CheckpointError where the checkpoint lacks tensors of the model: a loader may make them up.

    ``unread`` are tensors of the model's files that its loader does not read. Nothing is known of formats
    that a method of another package loads itself.
    """
    quantizer = subject.quantizer
    if quantizer and not locate(quantizer).is_ours and type(quantizer).load is not Quantizer.load:
        return
    missing = experiment.contents(subject, unread).missing
    if missing:
        raise CheckpointError(
            "the checkpoint lacks tensors of the model",
            given=f"{subject.directory}: {named(missing)}",
            accepted="a checkpoint that holds every tensor of the model, quantized or as it is",
            remedy="quantize again, or copy the checkpoint again; "
            "or name, as model=, the model that it was made from",
        )
