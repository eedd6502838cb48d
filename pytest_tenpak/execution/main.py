"""The worker's side of a job: quantizing, converting, measuring, generating, blaming, timing.

The worker may be another interpreter, with torch, transformers and a backend but no other packages of the
test suite: no module that is imported here may need more at import time than the standard library.
"""

from __future__ import annotations

import errno
import gc
import importlib.util
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import TenpakError, UnavailableError
from ..evaluation.kept_texts import read_documents
from ..models.convert import convert_gguf, copy_tokenizer
from ..progress import Progress
from ..quantizers.base import Job
from ..quantizers.loading import empty_gpu_cache
from ..quantizers.locate import relocate
from ..store.atomic import write_atomically
from .blame import blame
from .generate import generate
from .job_folder import report_progress
from .jobs import (
    ANSWER,
    NEXT,
    OUT_OF_DISK,
    OUT_OF_MEMORY,
    AnyJob,
    BlameJob,
    ConvertJob,
    GenerateJob,
    MeasureJob,
    MemoryJob,
    QuantizeJob,
    SpeedJob,
    job_from,
)
from .load import live_in
from .measure import measure
from .memory import own_bytes
from .speed import time_pair, weigh

_PROGRESS_SECONDS = 0.1
_NEXT_SECONDS = 0.02


def _quantize(job: QuantizeJob, progress: Progress) -> dict[str, Any]:
    quantizer = relocate(job.quantizer)
    texts = read_documents(job.calibration) if job.calibration else []
    started = time.monotonic()
    quantizer.quantize(Job(job.spec, job.model, job.out, job.device, job.dtype, texts, progress))
    copy_tokenizer(job.model, job.out)
    return {"seconds": time.monotonic() - started, **_cost(job.device)}


def _cost(device: str) -> dict[str, int]:
    """Return peak memory in bytes, on the host and on the GPU, and the number of torch threads."""
    cost = {"peak_bytes": _peak_bytes()}
    torch = sys.modules.get("torch")  # a quantizer may not have imported it
    if torch is not None:
        cost["threads"] = torch.get_num_threads()
        if device.startswith("cuda"):
            cost["peak_cuda_bytes"] = torch.cuda.max_memory_allocated(device)
    return cost


def _peak_bytes() -> int:
    """Return the peak of this process's resident memory.

    On Linux a new process inherits getrusage's figure from its parent: pytest's own peak, if that was
    higher. The figure in /proc starts from zero.
    """
    try:
        return own_bytes("VmHWM")
    except (OSError, LookupError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def _convert(job: ConvertJob, progress: Progress) -> dict[str, Any]:
    convert_gguf(job.file, job.out)
    progress(1, 1, "files")
    return {}


_DO: Mapping[type[AnyJob], Callable[[Any, Progress], dict[str, Any]]] = {
    QuantizeJob: _quantize,
    ConvertJob: _convert,
    MeasureJob: measure,
    GenerateJob: generate,
    BlameJob: blame,
    MemoryJob: weigh,
    SpeedJob: time_pair,
}


def _enter_gpu(device: str) -> None:
    """Make a GPU other than the first the current one: some kernels run there, wherever their tensors are."""
    if device not in ("cpu", "cuda", "cuda:0"):
        import torch

        torch.cuda.set_device(device)


def main(folder: Path, parent: int = 0) -> None:
    """Do the job in ``folder``, and others after it where the process is to stay.

    ``parent`` is the process with which this one ends; 0: the pytest process that wrote the job.
    """
    job = _read(folder)
    live_in(Path(job["home"] or folder))
    threading.Thread(target=_watch_parent, args=(parent or job["parent"],), daemon=True).start()
    _do_job(job, folder)
    while job["home"]:
        folder = _next_folder(Path(job["home"]))
        job = _read(folder)
        _do_job(job, folder)
    gc.freeze()  # or the interpreter's last collection takes a second, for what the process's end frees


def _read(folder: Path) -> dict[str, Any]:
    job: dict[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    sys.path.extend(entry for entry in job["sys_path"] if entry not in sys.path)
    return job


def _next_folder(home: Path) -> Path:
    """Wait for the next job, and enter its folder."""
    empty_gpu_cache()  # the model stays, others may come
    file = home / NEXT
    while not file.is_file():
        time.sleep(_NEXT_SECONDS)
    folder = Path(file.read_text(encoding="utf-8"))
    file.unlink()
    enter(folder)
    return folder


def enter(folder: Path) -> None:
    """Work in a job's folder, and send what is printed to its log."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(folder)


def _do_job(job: Mapping[str, Any], folder: Path) -> None:
    """Do a job and write the answer; end the process where memory or disk ran out."""
    try:
        answer = json.dumps(_answer(job, folder))
        write_atomically(folder / ANSWER, answer)
    except Exception as fault:
        code = _exhausted(fault)
        if code is None:
            raise
        if code == OUT_OF_DISK:
            (folder / "job.json").unlink(missing_ok=True)  # frees space for the traceback in the log
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
            report_progress(folder, done, total, unit)

    try:
        if job["elsewhere"]:
            _require_libraries()
        found = job_from(job["kind"], job["job"])
        _enter_gpu(getattr(found, "device", "cpu"))
        return {"answer": _DO[type(found)](found, progress)}
    except ModuleNotFoundError as fault:
        if not job["elsewhere"]:
            raise
        where = traceback.extract_tb(fault.__traceback__)[-1]
        given = f"{where.filename}, line {where.lineno}: {where.line}"
        return {"error": _missing_module(fault.name or str(fault), given).to_dict()}
    except TenpakError as error:
        if job["elsewhere"] and isinstance(error, UnavailableError):
            error.given = f"{error.given or 'not found'} in {sys.executable}"
        return {"error": error.to_dict()}


def _require_libraries() -> None:
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            raise _missing_module(name, "not installed")


def _missing_module(module: str, given: str) -> UnavailableError:
    return UnavailableError(
        f"the interpreter {sys.executable} cannot import {module}",
        given=given,
        accepted="torch, transformers and the method's backend, all in it; pytest's packages are not used",
        remedy=f"install the package of {module} there: {sys.executable} -m pip install …",
    )


def _exhausted(fault: BaseException | None) -> int | None:
    """Return the exit code for memory or disk that ran out, by a fault or its cause; None for others."""
    while fault is not None:
        text = str(fault).lower()
        number = fault.errno if isinstance(fault, OSError) else None
        # safetensors reports a full disk by an error of its own, with the system's text.
        if number in (errno.ENOSPC, errno.EDQUOT) or "no space left on device" in text:
            return OUT_OF_DISK
        if isinstance(fault, MemoryError) or number == errno.ENOMEM:
            return OUT_OF_MEMORY
        if isinstance(fault, RuntimeError) and ("out of memory" in text or "t allocate memory" in text):
            return OUT_OF_MEMORY
        fault = fault.__cause__ or (None if fault.__suppress_context__ else fault.__context__)
    return None


def _watch_parent(parent: int) -> None:
    """End this process when the pytest process that started it has ended, even if that was killed.

    The whole process group is killed: backends start compilers and servers of their own.
    """
    while os.getppid() == parent:
        time.sleep(1)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
