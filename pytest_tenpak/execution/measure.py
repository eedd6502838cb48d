"""The measuring half of a worker process: load a model, and add windows to its trace.

May run in another interpreter, as all of ``main.py``: no module that is imported here needs more at its top
than the standard library.
"""

from __future__ import annotations

import platform
from bisect import bisect_right
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import MeasurementError
from ..evaluation import divergence, perplexity
from ..evaluation.decoder_layers import compare_layers, keep_layers
from ..evaluation.protocol import Protocol, Window
from ..evaluation.tokenize import tokenize
from ..evaluation.trace import Plan, Trace
from ..metrics.intervals import Rule, looks
from ..progress import Progress
from ..quantizers.loading import load_pretrained
from ..quantizers.locate import relocate
from ..quantizers.rounding import round_to_nearest
from ..spec import QuantizeSpec
from ..store.digest import fingerprint
from ..verdict.criteria import Criterion, first_decisive_look, limit_of

#: Scored tokens in one block of a trace: what is kept of each is held in memory until the block is whole.
_BLOCK_TOKENS = 32768


def measure(payload: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Add windows to a trace, by a model that is loaded afresh."""
    import torch
    from transformers import AutoTokenizer

    directory = Path(payload["directory"])
    if payload["threads"]:
        torch.set_num_threads(payload["threads"])
    protocol = Protocol(**payload["protocol"])
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    stream = tokenize(tokenizer, payload["documents"], protocol)
    windows = protocol.windows(len(stream.ids), 0, stream.starts)
    model, loader = _load(payload)
    if payload["rounding"]:
        _round(model, **payload["rounding"])
    bos = tokenizer.bos_token_id if protocol.bos == "window" else None
    scorer = perplexity.Scorer(model, stream.ids, bos=bos, batch_size=payload["batch_size"])
    trace = Trace(Path(payload["trace"]))
    digest = fingerprint(stream.ids)
    beside = Trace(Path(payload["reference"])) if payload["reference"] else None
    if beside is not None and beside.stream != digest:
        beside = None  # other tokens: there is nothing to compare, and the verdict will say so
    if beside is not None:
        _require_vocabulary(beside.facts["vocabulary"], scorer.vocabulary)
    kind = divergence.kind_of(scorer, payload["divergence"]) if payload["keep"] else beside and beside.kind
    documents = [bisect_right(stream.starts, window.first_scored) - 1 for window in windows]
    if trace.plan is None:
        ids = stream.ids[: protocol.context]
        if payload["keep"]:
            keep_layers(model, ids, trace.layers_file)
        trace.begin(
            Plan(digest, [window.scored for window in windows], documents, kind or ""),
            {
                "device": {**_describe_device(payload["device"]), **_kernels(model, payload["layers"])},
                "loader": f"{loader} {version(loader)}",
                "vocabulary": scorer.vocabulary,
                "layers": compare_layers(model, ids, beside.layers_file) if beside else {},
            },
        )
    _score(scorer, windows, trace, beside, payload, progress)
    return {}


def _require_vocabulary(theirs: int, ours: int) -> None:
    if theirs != ours:
        raise MeasurementError(
            "the checkpoint predicts another number of tokens than the unquantized model",
            given=f"{ours:,} against {theirs:,}, although the tokenizer is the same",
            accepted="an output head of the model's own size, with which predictions can be compared",
            remedy="quantize the model that is named, or name the one that was quantized",
        )


def _score(
    scorer: perplexity.Scorer,
    windows: list[Window],
    trace: Trace,
    beside: Trace | None,
    payload: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Add windows to the trace, look by look, until the criteria are settled or the limit is reached."""
    rule = Rule(*payload["rule"])
    criteria = [Criterion.from_dict(plain) for plain in payload["criteria"]]
    planned = trace.planned(payload["budget"])
    limit = limit_of(planned, payload["limit"])
    if payload["reference"] and beside is None:
        criteria, limit = [], min(limit, looks(planned)[0])
    scored = [window.scored for window in windows]
    observer: perplexity.Observer | None = None
    if payload["keep"]:
        observer = divergence.Keeper(trace.kind)
        if trace.kind == divergence.EXACT:
            trace.keep_head(scorer.head)
    elif beside is not None:
        observer = divergence.Comparer(beside, scorer.device)
    total = sum(scored[:limit])
    step = max(1, _BLOCK_TOKENS // max(scored))
    for stop in looks(planned):
        if trace.count >= min(stop, limit):
            continue
        while (start := trace.count) < min(stop, limit):
            ends = min(start + step, stop, limit)
            told = partial(_tell, progress, sum(scored[:start]), total)
            trace.add(scorer.score(windows[start:ends], start, observer=observer, progress=told))
        if first_decisive_look(
            criteria, trace.windows(payload["budget"]), planned, rule, payload["whole"], stop
        ):
            return


def _tell(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total, "tokens")


def _load(payload: Mapping[str, Any]) -> tuple[Any, str]:
    """The model, and the distribution whose loader loaded it."""
    place = Path(payload["directory"]), payload["device"], payload["dtype"]
    if not payload["quantizer"]:
        return load_pretrained(*place), "transformers"
    quantizer, spec = relocate(payload["quantizer"]), QuantizeSpec.from_dict(payload["spec"])
    return quantizer.load(spec, *place), quantizer.loader(spec)


def _round(model: Any, layers: list[str], bits: int, group_size: int) -> None:
    found = round_to_nearest(model, layers, bits, group_size)
    if found < len(layers):
        raise MeasurementError(
            "not every quantized layer was found in the unquantized model, to round it to nearest",
            given=f"{found} of {len(layers)}, {layers[0]} and so on",
            remedy="set max_rtn_factor=0 in the marker to do without this check",
        )


def _kernels(model: Any, layers: list[str]) -> dict[str, str]:
    """The classes that the quantized layers run through: what a library chose may change with it."""
    modules = dict(model.named_modules())
    classes = {type(modules[name]).__name__ for name in layers if name in modules}
    return {"kernel": ", ".join(sorted(classes))} if classes else {}


def _describe_device(device: str) -> dict[str, str]:
    import torch

    if device == "cpu":
        return {
            "device": platform.machine(),
            "cpu capability": _cpu_capability(),
            "threads": str(torch.get_num_threads()),
        }
    return {"device": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}


def _cpu_capability() -> str:
    """Instruction sets that choose kernels, and with them the last digits of a figure."""
    import torch

    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    kernels = [name for name in ("avx512_bf16", "amx_bf16") if known.get(name)]
    return " ".join([str(torch.backends.cpu.get_cpu_capability()), *kernels])
