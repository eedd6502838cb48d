"""The jobs of worker processes, as plain dataclasses that both sides share.

A job is sent to the process as JSON: no pickles, and nothing that another interpreter would have to import.
Models, texts and windows are named by folders of the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from ..evaluation.protocol import Protocol
from ..metrics.intervals import Rule
from ..quantizers.locate import Place
from ..quantizers.placement import Placement
from ..spec import QuantizeSpec
from ..verdict.criteria import Criterion

#: Exit codes that say what ran out; unlike an answer, they need neither memory nor disk.
OUT_OF_MEMORY, OUT_OF_DISK = 190, 191
#: The answer in a job's folder, and what names the next job in the home of a process that stays.
ANSWER, NEXT = "answer.json", "next"


@dataclass(frozen=True)
class Text:
    """A text in the store: the folder with its documents, and the one where its tokens are kept.

    ``part`` is the number of its characters where it is the beginning of a longer text; else 0.
    """

    documents: Path
    tokens: Path
    part: int = 0

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Text:
        """Return the text that :func:`to_plain` wrote."""
        return cls(Path(plain["documents"]), Path(plain["tokens"]), plain["part"])


@dataclass(frozen=True)
class QuantizeJob:
    """Quantize ``model`` with the class at ``quantizer``, and save the checkpoint to ``out``.

    ``calibration`` is the folder with the documents to calibrate on, None where there are none.
    """

    kind: ClassVar[str] = "quantize"

    quantizer: Place
    spec: QuantizeSpec
    model: Path
    out: Path
    device: str
    dtype: str
    calibration: Path | None

    @property
    def may_be_forked(self) -> bool:
        """Whether the process may have imported transformers before: others' code may count on its order."""
        return self.quantizer.is_ours and self.device == "cpu"

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> QuantizeJob:
        """Return the job that :func:`to_plain` wrote."""
        return cls(
            quantizer=Place(**plain["quantizer"]),
            spec=QuantizeSpec.from_dict(plain["spec"]),
            model=Path(plain["model"]),
            out=Path(plain["out"]),
            device=plain["device"],
            dtype=plain["dtype"],
            calibration=Path(plain["calibration"]) if plain["calibration"] else None,
        )


@dataclass(frozen=True)
class ConvertJob:
    """Convert the GGUF file ``file`` to a model directory ``out``."""

    kind: ClassVar[str] = "convert"

    file: Path
    out: Path

    @property
    def may_be_forked(self) -> bool:
        """True: nothing but transformers is needed."""
        return True

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ConvertJob:
        """Return the job that :func:`to_plain` wrote."""
        return cls(Path(plain["file"]), Path(plain["out"]))


@dataclass(frozen=True)
class Rounding:
    """Round-to-nearest of a model's ``layers`` in memory: ``bits`` and weights per scale.

    ``group_size`` is a number, or a mapping from parts of names of layers.
    """

    layers: tuple[str, ...]
    bits: int
    group_size: int | Mapping[str, int]


@dataclass(frozen=True)
class LoadingJob:
    """What every job names that loads the model in ``directory``.

    ``quantizer`` loads it by its ``spec``, or transformers where that is None. ``placement`` says which other
    devices its layers may go to.
    """

    directory: Path
    quantizer: Place | None
    spec: QuantizeSpec
    device: str
    dtype: str
    placement: Placement = field(default=Placement(), kw_only=True)

    @property
    def may_be_forked(self) -> bool:
        """Whether the process may have imported transformers before, and no driver of a GPU is needed."""
        return self.device == "cpu" and (self.quantizer is None or self.quantizer.is_ours)

    @staticmethod
    def nested(plain: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of this class that are no plain values, as :func:`to_plain` wrote them."""
        return {
            "directory": Path(plain["directory"]),
            "quantizer": Place(**plain["quantizer"]) if plain["quantizer"] else None,
            "spec": QuantizeSpec.from_dict(plain["spec"]),
            "placement": Placement.from_dict(plain["placement"]),
        }


@dataclass(frozen=True)
class MeasureJob(LoadingJob):
    """Load the model in ``directory``, and add measured windows to the trace in the folder ``trace``.

    ``quantizer`` loads it, or transformers where that is None. ``layers`` names the quantized layers,
    ``rounding`` is applied to the loaded model. ``reference`` is the folder of the reference's trace to
    compare with; ``is_reference``: this is the reference, and the data for comparisons with it are recorded,
    as ``divergence`` says. ``threads`` and ``batch_size``: 0 chooses. Windows are measured up to ``limit`` of
    those that ``budget`` tokens allow (see :func:`~.verdict.criteria.limit_of`), or until the criteria are
    decided; with ``whole``, only until one is broken.
    """

    kind: ClassVar[str] = "measure"

    layers: tuple[str, ...]
    rounding: Rounding | None
    text: Text
    protocol: Protocol
    batch_size: int
    threads: int
    trace: Path
    reference: Path | None
    is_reference: bool
    divergence: str
    budget: int
    limit: int | None
    criteria: tuple[Criterion, ...]
    rule: Rule
    whole: bool

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> MeasureJob:
        """Return the job that :func:`to_plain` wrote."""
        nested = {
            **cls.nested(plain),
            "layers": tuple(plain["layers"]),
            "rounding": _rounding(plain["rounding"]),
            "text": Text.from_dict(plain["text"]),
            "protocol": Protocol(**plain["protocol"]),
            "trace": Path(plain["trace"]),
            "reference": Path(plain["reference"]) if plain["reference"] else None,
            "criteria": tuple(map(Criterion.from_dict, plain["criteria"])),
            "rule": Rule(*plain["rule"]),
        }
        return cls(**{**plain, **nested})


@dataclass(frozen=True)
class GenerateJob(LoadingJob):
    """Load the model in ``directory`` as :class:`MeasureJob` does, and continue each of ``prompts``.

    ``options`` go to transformers' ``generate``.
    """

    kind: ClassVar[str] = "generate"

    prompts: tuple[str, ...]
    options: Mapping[str, Any]

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> GenerateJob:
        """Return the job that :func:`to_plain` wrote."""
        return cls(**{**plain, **cls.nested(plain), "prompts": tuple(plain["prompts"])})


@dataclass(frozen=True)
class BlameJob(LoadingJob):
    """Find which modules of the checkpoint in ``directory`` carry its divergence from ``model``.

    ``quantizer`` loads the checkpoint, or transformers where that is None. ``reference`` and ``trace`` are
    the folders of both traces, of which the first ``windows`` windows count; ``budget`` is the number of
    tokens of one full measurement, which bounds the cost. ``whole_blocks``: the method moves scales between
    layers, so that only whole blocks correspond.
    """

    kind: ClassVar[str] = "blame"

    model: Path
    whole_blocks: bool
    text: Text
    protocol: Protocol
    batch_size: int
    threads: int
    reference: Path
    trace: Path
    windows: int
    budget: int

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> BlameJob:
        """Return the job that :func:`to_plain` wrote."""
        nested = {
            "model": Path(plain["model"]),
            **cls.nested(plain),
            "text": Text.from_dict(plain["text"]),
            "protocol": Protocol(**plain["protocol"]),
            "reference": Path(plain["reference"]),
            "trace": Path(plain["trace"]),
        }
        return cls(**{**plain, **nested})


@dataclass(frozen=True)
class MemoryJob(LoadingJob):
    """Load the model in ``directory``, run it once, and answer the peak of its memory.

    ``quantizer`` loads it, or transformers where that is None. ``model`` is the unquantized model, whose
    tokenizer is used. ``text`` is the beginning of a corpus, of which at most ``context`` tokens are run.
    ``threads``: 0 chooses.
    """

    kind: ClassVar[str] = "weigh"

    model: Path
    text: str
    context: int
    threads: int

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> MemoryJob:
        """Return the job that :func:`to_plain` wrote."""
        return cls(**{**plain, **cls.nested(plain), "model": Path(plain["model"])})


@dataclass(frozen=True)
class SpeedJob(MemoryJob):
    """Load the checkpoint in ``directory`` and ``model`` too, and time both in interleaved rounds.

    ``layers`` names the quantized layers. Rounds are added until it is decided whether each phase that
    ``least`` names is at least so many times as fast as that of ``model``.
    """

    kind: ClassVar[str] = "time"

    layers: tuple[str, ...]
    least: Mapping[str, float]
    rule: Rule

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> SpeedJob:
        """Return the job that :func:`to_plain` wrote."""
        nested = {
            **cls.nested(plain),
            "model": Path(plain["model"]),
            "layers": tuple(plain["layers"]),
            "rule": Rule(*plain["rule"]),
        }
        return cls(**{**plain, **nested})


AnyJob: TypeAlias = QuantizeJob | ConvertJob | MeasureJob | GenerateJob | BlameJob | MemoryJob
_KINDS: tuple[type[AnyJob], ...] = (
    QuantizeJob,
    ConvertJob,
    MeasureJob,
    GenerateJob,
    BlameJob,
    MemoryJob,
    SpeedJob,
)


def job_from(kind: str, plain: Mapping[str, Any]) -> AnyJob:
    """Return the job of a kind that :func:`to_plain` wrote."""
    return next(one for one in _KINDS if one.kind == kind).from_dict(plain)


def sources(job: AnyJob) -> list[Path]:
    """Return the files and directories that a job loads a model from."""
    return [getattr(job, name) for name in ("file", "directory", "model") if hasattr(job, name)]


def reads(job: AnyJob) -> list[Path]:
    """Return all files and folders that a job reads: what another machine has to have."""
    found = sources(job)
    if isinstance(job, MeasureJob | BlameJob):
        found += [job.text.documents, job.text.tokens, job.trace]
        found += [job.reference] if job.reference else []
    if isinstance(job, QuantizeJob) and job.calibration:
        found.append(job.calibration)
    place = None if isinstance(job, ConvertJob) else job.quantizer
    if place and not place.is_ours and not place.is_installed:
        found.append(Path(place.file))
    return [*dict.fromkeys(found)]


def writes(job: AnyJob) -> list[Path]:
    """Return the folders to which a job adds files that its answer does not have."""
    if isinstance(job, QuantizeJob | ConvertJob):
        return [job.out]
    return [job.trace] if isinstance(job, MeasureJob) else []


def to_plain(job: AnyJob | LoadingJob | Text) -> dict[str, Any]:
    """Convert a job to plain values for JSON; ``from_dict`` of its class reads them back."""
    return {one.name: _plain(getattr(job, one.name)) for one in fields(job)}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, QuantizeSpec):
        return value.to_dict()
    if isinstance(value, Text):
        return to_plain(value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _rounding(plain: Mapping[str, Any] | None) -> Rounding | None:
    if plain is None:
        return None
    return Rounding(tuple(plain["layers"]), plain["bits"], plain["group_size"])
