"""What runs inside a worker process: quantizing, converting, measuring.

It may be another interpreter, with torch, transformers and a backend but nothing else of the test suite:
no module that is imported here needs more at its top.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import platform
import re
import resource
import signal
import sys
import threading
import time
import traceback
from bisect import bisect_right
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .digest import fingerprint
from .errors import MeasurementError, TenpakError, UnavailableError
from .goals import Goal, first_settled, limit_of
from .measure import divergence, perplexity
from .measure.layers import compare_layers, keep_layers
from .measure.stream import tokenize
from .measure.trace import Plan, Trace
from .models import convert_gguf, copy_tokenizer
from .progress import Progress
from .protocol import Protocol, Window
from .quantizers import Job, relocate
from .quantizers.loading import load_pretrained
from .quantizers.rounding import round_to_nearest
from .spec import QuantizeSpec
from .statistics import Rule, looks

_PROGRESS_SECONDS = 0.1
#: Scored tokens in one block of a trace: what is kept of each is held in memory until the block is whole.
_BLOCK_TOKENS = 32768
#: Exit codes that say what was used up; they need neither memory nor disk to be said.
OUT_OF_MEMORY, OUT_OF_DISK = 190, 191


def _quantize(payload: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    quantizer = relocate(payload["quantizer"])
    job = Job(
        spec=QuantizeSpec.from_dict(payload["spec"]),
        model=Path(payload["model"]),
        out=Path(payload["out"]),
        device=payload["device"],
        dtype=payload["dtype"],
        calibration=payload["calibration"],
        progress=progress,
    )
    started = time.monotonic()
    quantizer.quantize(job)
    copy_tokenizer(job.model, job.out)
    return {"seconds": time.monotonic() - started, **_taken(job.device)}


def _taken(device: str) -> dict[str, int]:
    """What the work took at its highest: resident bytes, bytes on the GPU, and threads of torch."""
    taken = {"peak_bytes": _peak_bytes()}
    torch = sys.modules.get("torch")  # a quantizer that never imported it took none of it
    if torch is not None:
        taken["threads"] = torch.get_num_threads()
        if device.startswith("cuda"):
            taken["peak_cuda_bytes"] = torch.cuda.max_memory_allocated(device)
    return taken


def _peak_bytes() -> int:
    """The high-water mark of this process's resident memory.

    Linux hands getrusage's figure on from the parent when a process is started: pytest's own peak, if
    that was higher. The one in /proc begins anew.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0])
    except (OSError, LookupError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def _convert(payload: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    convert_gguf(Path(payload["file"]), Path(payload["out"]))
    progress(1, 1, "files")
    return {}


def _measure(payload: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
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
    kind = divergence.kind_of(scorer, payload["divergence"]) if payload["keep"] else beside and beside.kind
    documents = [bisect_right(stream.starts, window.first_scored) - 1 for window in windows]
    if trace.plan is None:
        ids = stream.ids[: windows[0].stop - 1]
        if payload["keep"]:
            keep_layers(model, ids, trace.layers_file)
        trace.begin(
            Plan(digest, [window.scored for window in windows], documents, kind or ""),
            {
                "device": {**_describe_device(payload["device"]), **_kernels(model, payload["layers"])},
                "loader": f"{loader} {version(loader)}",
                "layers": compare_layers(model, ids, beside.layers_file) if beside else {},
            },
        )
    _score(scorer, windows, trace, beside, payload, progress)
    return {}


def _score(
    scorer: perplexity.Scorer,
    windows: list[Window],
    trace: Trace,
    beside: Trace | None,
    payload: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Add windows to the trace, look by look, until the goals are settled or the limit is reached."""
    rule = Rule(*payload["rule"])
    goals = [Goal.from_dict(plain) for plain in payload["goals"]]
    planned = trace.planned(payload["budget"])
    limit = limit_of(planned, payload["limit"])
    if payload["reference"] and beside is None:
        goals, limit = [], min(limit, looks(planned)[0])
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
        if first_settled(goals, trace.windows(payload["budget"]), planned, rule, payload["whole"], stop):
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


JOBS = {"quantize": _quantize, "convert": _convert, "measure": _measure}


def main(folder: Path) -> None:
    """Do the job in ``folder`` and leave the answer there; end the process where memory or disk ran out."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    sys.path.extend(entry for entry in job["sys_path"] if entry not in sys.path)
    threading.Thread(target=_watch_parent, args=(job["parent"],), daemon=True).start()
    try:
        answer = _answer(job, folder)
        (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    except Exception as fault:
        code = _used_up(fault)
        if code is None:
            raise
        if code == OUT_OF_DISK:
            (folder / "job.json").unlink(missing_ok=True)  # room for the lines that say what happened
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _answer(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    last = 0.0

    def progress(done: int, total: int, unit: str) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last > _PROGRESS_SECONDS:
            last = time.monotonic()
            with (folder / "progress.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([done, total, unit]) + "\n")

    try:
        if job["elsewhere"]:
            _require_libraries()
        return {"answer": JOBS[job["kind"]](job["payload"], progress)}
    except ModuleNotFoundError as fault:
        if not job["elsewhere"]:
            raise
        where = traceback.extract_tb(fault.__traceback__)[-1]
        given = f"{where.filename}, line {where.lineno}: {where.line}"
        return {"error": _lacks(fault.name or str(fault), given).to_dict()}
    except TenpakError as error:
        if job["elsewhere"] and isinstance(error, UnavailableError):
            error.given = f"{error.given or 'not found'} in {sys.executable}"
        return {"error": error.to_dict()}


def _require_libraries() -> None:
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            raise _lacks(name, "not installed")


def _lacks(module: str, given: str) -> UnavailableError:
    return UnavailableError(
        f"the interpreter {sys.executable} cannot import {module}",
        given=given,
        accepted="torch, transformers and the method's backend in it; nothing of pytest's is lent to it",
        remedy=f"install what provides {module} there: {sys.executable} -m pip install …",
    )


def _used_up(fault: BaseException | None) -> int | None:
    """The exit code for what a fault, or what caused it, says ran out; None for any other fault."""
    while fault is not None:
        text = str(fault).lower()
        number = fault.errno if isinstance(fault, OSError) else None
        # safetensors raises a full disk as an error of its own, with the system's text.
        if number in (errno.ENOSPC, errno.EDQUOT) or "no space left on device" in text:
            return OUT_OF_DISK
        if isinstance(fault, MemoryError) or number == errno.ENOMEM:
            return OUT_OF_MEMORY
        if isinstance(fault, RuntimeError) and ("out of memory" in text or "t allocate memory" in text):
            return OUT_OF_MEMORY
        fault = fault.__cause__ or (None if fault.__suppress_context__ else fault.__context__)
    return None


def _watch_parent(parent: int) -> None:
    """End with the pytest process that asked, even when it was killed and could not say so.

    The whole process group goes: backends start compilers and servers of their own.
    """
    while os.getppid() == parent:
        time.sleep(1)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
