"""Measuring in a worker process: load a model, and add windows to its trace.

May run in another interpreter, like ``main.py``: no module that is imported here may need more at import time
than the standard library.
"""

from __future__ import annotations

import gc
import platform
import re
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..diagnosis.shipped import read_shipped
from ..errors import CheckpointError, MeasurementError
from ..evaluation import divergence, perplexity
from ..evaluation.decoder_layers import compare_layers, save_layers
from ..evaluation.kept_texts import read_documents
from ..evaluation.kept_tokens import tokens_of
from ..evaluation.protocol import Window
from ..evaluation.tokenize import Stream, plan_windows
from ..evaluation.trace import Appender, Plan, Trace
from ..metrics.intervals import looks
from ..progress import Progress
from ..quantizers.loading import import_transformers, load_tokenizer, require_causal_lm
from ..quantizers.placement import describe
from ..quantizers.rounding import round_to_nearest
from ..verdict.criteria import first_decisive_look, limit_of
from .jobs import MeasureJob, Rounding
from .load import Loaded, load_once, load_subject

#: What torch says of a product of two types.
_OTHER_TYPE = re.compile(r"must have the same dtype|expected scalar type|same dtype, but got")
#: Scored tokens in one block of a trace, whose figures by token are held in memory until the block is whole.
_BLOCK_TOKENS = 32768


@dataclass(frozen=True)
class _Subject:
    """A loaded model with the text that it is run on, cut into windows."""

    model: Any
    loader: str
    stream: Stream
    windows: list[Window]
    scorer: perplexity.Scorer
    unread: list[str] = field(default_factory=list)
    tokenizer: Any = None

    @cached_property
    def digest(self) -> str:
        """Digest of the text's token ids."""
        return self.stream.digest


def measure(job: MeasureJob, progress: Progress) -> dict[str, Any]:
    """Load a model and add windows to its trace."""
    with _types_explained(job):
        subject = _load(job)
        trace, reference = Trace(job.trace), _reference(job, subject)
        if trace.plan is None:
            _begin(job, subject, trace, reference)
        _score(job, subject, trace, reference, progress)
    return {}


@contextmanager
def _types_explained(job: MeasureJob) -> Iterator[None]:
    """Raise MeasurementError where layers of a checkpoint compute in another type than they are given.

    Some formats (NVFP4, MXFP4) unpack their weights to bfloat16, whatever type was requested.
    """
    try:
        yield
    except RuntimeError as fault:
        if not _OTHER_TYPE.search(str(fault)):
            raise
        raise MeasurementError(
            "layers of the checkpoint compute in another type than the one it is measured in",
            given=f"dtype={job.dtype!r}; torch: {str(fault).splitlines()[0][:200]}",
            accepted="the type that the format unpacks its weights to, usually bfloat16",
            remedy="set dtype='bfloat16' in the marker",
        ) from fault


def _load(job: MeasureJob) -> _Subject:
    import_transformers()
    if not gc.get_freeze_count():
        gc.freeze()  # modules stay to the end: no collection need search them again
    import torch

    own = _own_threads()  # before another number is set: a process that stays does jobs of both kinds
    torch.set_num_threads(job.threads or own)
    require_causal_lm(job.directory)
    tokenizer = load_tokenizer(job.directory)
    stream = tokens_of(tokenizer, partial(read_documents, job.text.documents), job.protocol, job.text.tokens)
    windows = plan_windows(stream, job.protocol, job.budget, job.text.part)
    model, loader, unread = _load_model(job)
    _require_embeddings(model, tokenizer, stream, job.directory)
    bos = tokenizer.bos_token_id if job.protocol.bos == "window" else None
    scorer = perplexity.Scorer(model, stream.ids, bos=bos, batch_size=job.batch_size)
    return _Subject(model, loader, stream, windows, scorer, unread, tokenizer)


@cache
def _own_threads() -> int:
    """Return how many threads torch chose, before any job of this process chose otherwise."""
    import torch

    return int(torch.get_num_threads())


def _require_embeddings(model: Any, tokenizer: Any, stream: Stream, directory: Path) -> None:
    """Raise CheckpointError where the tokenizer gives ids for which the model has no embedding."""
    rows, largest = model.get_input_embeddings().weight.shape[0], max(stream.ids)
    if largest >= rows:
        raise CheckpointError(
            f"the tokenizer in {directory} has tokens for which the model has no embedding",
            given=f"{tokenizer.convert_ids_to_tokens(largest)!r} has the id {largest:,}, "
            f"and there are {rows:,} embeddings",
            accepted="a tokenizer whose ids are all below the number of embeddings",
            remedy="after adding tokens, call model.resize_token_embeddings(len(tokenizer)) and save both; "
            "or restore the tokenizer that belongs to the model",
        )


def _load_model(job: MeasureJob) -> Loaded:
    """Load the model, rounded where the job says so."""
    if not job.rounding:
        return load_once(job)
    loaded = load_subject(job)
    _round(loaded.model, job.rounding)
    return loaded


def _round(model: Any, rounding: Rounding) -> None:
    layers = rounding.layers
    found = round_to_nearest(model, layers, rounding.bits, rounding.group_size)
    if found < len(layers):
        raise MeasurementError(
            "not every quantized layer was found in the unquantized model, to round it to nearest",
            given=f"{found} of {len(layers)}, {layers[0]} and so on",
            remedy="set max_rtn_factor=0 in the marker to switch this check off",
        )


def _reference(job: MeasureJob, subject: _Subject) -> Trace | None:
    """Return the reference's trace if it has the same tokens; other tokens are not comparable."""
    trace = Trace(job.reference) if job.reference else None
    if trace is None or trace.stream != subject.digest:
        return None
    ours, theirs = subject.scorer.vocabulary, trace.facts["vocabulary"]
    if ours != theirs:
        raise MeasurementError(
            "the checkpoint's output head has another size than the unquantized model's",
            given=f"{ours:,} against {theirs:,} tokens, although the tokenizer is the same",
            accepted="an output head of the model's own size, so that predictions are comparable",
            remedy="quantize the model that is named, or name the model that was quantized",
        )
    return trace


def _begin(job: MeasureJob, subject: _Subject, trace: Trace, reference: Trace | None) -> None:
    """Begin a trace with how the text is cut, the device and loader, and figures of the decoder layers."""
    model, stream, windows = subject.model, subject.stream, subject.windows
    ids = stream.ids[: job.protocol.context]
    kind = reference.kind if reference else ""
    if job.is_reference:
        kind = divergence.kind_of(subject.scorer, job.divergence)
        save_layers(model, ids, trace.layers_file)
    documents = [bisect_right(stream.starts, window.first_scored) - 1 for window in windows]
    trace.begin(
        Plan(subject.digest, [window.scored for window in windows], documents, kind),
        {
            "device": {**describe_device(job.device), **_placement(model), **kernels(model, job.layers)},
            "loader": f"{subject.loader} {version(subject.loader)}",
            "unread": subject.unread,
            "shipped": {
                "fields": read_shipped(job.directory, subject.tokenizer),
                "reader": version("transformers"),
            },
            "vocabulary": subject.scorer.vocabulary,
            "layers": compare_layers(model, ids, reference.layers_file) if reference else {},
        },
    )


def _score(
    job: MeasureJob, subject: _Subject, trace: Trace, reference: Trace | None, progress: Progress
) -> None:
    """Add windows to the trace, look by look, until the criteria are decided or the limit is reached."""
    scorer, windows = subject.scorer, subject.windows
    planned = trace.planned(job.budget)
    criteria, limit = job.criteria, limit_of(planned, job.limit)
    if job.reference and reference is None:
        criteria, limit = (), min(limit, looks(planned)[0])
    scored = [window.scored for window in windows]
    observer = _observer(job, scorer, trace, reference)
    total = sum(scored[:limit])
    step = max(1, _BLOCK_TOKENS // max(scored))
    for stop in looks(planned):
        if trace.count >= min(stop, limit):
            continue
        with Appender(trace, beside=job.device != "cpu") as appender:
            while (start := appender.count) < min(stop, limit):
                ends = min(start + step, stop, limit)
                report = partial(_report, progress, sum(scored[:start]), total)
                began = time.monotonic()
                appender.add(scorer.score(windows[start:ends], start, observer=observer, progress=report))
                trace.add_time(sum(scored[start:ends]), time.monotonic() - began)
        if first_decisive_look(criteria, trace.windows(job.budget), planned, job.rule, job.whole, stop):
            return


def _observer(
    job: MeasureJob, scorer: perplexity.Scorer, trace: Trace, reference: Trace | None
) -> perplexity.Observer | None:
    """Return the observer of each token's predictions: a reference is recorded, a checkpoint compared."""
    if job.is_reference:
        if trace.kind == divergence.EXACT:
            trace.save_head(scorer.head)
        return divergence.ReferenceRecorder(trace.kind)
    return divergence.Comparer(reference, scorer.device, scorer.head) if reference else None


def _report(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total, "tokens")


def kernels(model: Any, layers: tuple[str, ...]) -> dict[str, str]:
    """Return the classes of the quantized layers, which say what kernels the library chose."""
    modules = dict(model.named_modules())
    classes = {type(modules[name]).__name__ for name in layers if name in modules}
    return {"kernel": ", ".join(sorted(classes))} if classes else {}


def _placement(model: Any) -> dict[str, str]:
    """Return where the layers are, where these are not all on the one device."""
    where = describe(model)
    return {"placement": where} if where else {}


def describe_device(device: str) -> dict[str, str]:
    """Return what a device is, and what chooses its kernels: part of every provenance."""
    import torch

    if device == "cpu":
        return {
            "device": platform.machine(),
            "cpu capability": _cpu_capability(),
            "threads": str(torch.get_num_threads()),
        }
    return {"device": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}


def _cpu_capability() -> str:
    """Return the instruction sets that select kernels, and so affect the last digits of a figure."""
    import torch

    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    kernels = [name for name in ("avx512_bf16", "amx_bf16") if known.get(name)]
    return " ".join([str(torch.backends.cpu.get_cpu_capability()), *kernels])
