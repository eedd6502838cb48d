"""Heavy work in a process of its own: quantizing, converting, measuring.

A crash, an out-of-memory kill or a leaked allocation of a backend ends one job, not pytest. The two
sides speak through files in a job folder: ``job.json`` in, ``progress.jsonl`` and ``answer.json`` out,
``log.txt`` for whatever the libraries print. No pickles.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .checkpoint import Store
from .errors import TenpakError, WorkerError, error_from_dict
from .measure import perplexity
from .models import convert_gguf, copy_tokenizer
from .progress import Progress
from .protocol import Protocol
from .quantizers import Job, relocate
from .quantizers.loading import load_pretrained
from .spec import QuantizeSpec

_POLL_SECONDS = 0.1
_LOG_LINES = 12


def run_job(
    store: Store, kind: str, payload: Mapping[str, Any], progress: Progress, timeout: float = 0
) -> Mapping[str, Any]:
    """Run one job in a worker process and return its answer.

    ``kind`` names a function of JOBS, ``payload`` its plain arguments. ``timeout`` is in seconds (0:
    none). Raises the worker's own TenpakError, or WorkerError, which quotes the log and names it.
    """
    folder = store.root / "jobs" / f"{kind}-{uuid.uuid4().hex[:12]}"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(
        json.dumps({"kind": kind, "payload": payload, "sys_path": sys.path, "parent": os.getpid()}),
        encoding="utf-8",
    )
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
        try:
            code = _attend(process, folder / "progress.jsonl", progress, timeout)
        finally:
            _end(process)
    answer = _read_answer(folder)
    if answer is None or "error" in answer:
        raise _failure(kind, folder, code, answer, timeout)
    shutil.rmtree(folder, ignore_errors=True)
    reply: Mapping[str, Any] = answer["answer"]
    return reply


def _environment() -> dict[str, str]:
    """The user's environment, quieter and offline: whatever had to be downloaded is on disk by now."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return {**os.environ, **quiet, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}


def _attend(process: subprocess.Popen[bytes], path: Path, progress: Progress, timeout: float) -> int | None:
    """Pass progress on until the process ends; its exit code, or None when it ran out of time."""
    deadline = time.monotonic() + timeout if timeout else None
    read = 0
    while True:
        code = process.poll()
        if path.exists():
            with path.open("rb") as stream:
                stream.seek(read)
                *lines, rest = stream.read().split(b"\n")
                read = stream.tell() - len(rest)
            for line in lines:
                progress(*json.loads(line))
        if code is not None:
            return code
        if deadline is not None and time.monotonic() > deadline:
            return None
        time.sleep(_POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the worker and of anything it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read_answer(folder: Path) -> dict[str, Any] | None:
    try:
        answer: dict[str, Any] = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        return answer
    except (OSError, ValueError):
        return None


def _failure(
    kind: str, folder: Path, code: int | None, answer: dict[str, Any] | None, timeout: float
) -> TenpakError:
    if answer is not None:
        shutil.rmtree(folder, ignore_errors=True)
        return error_from_dict(answer["error"])
    log = folder / "log.txt"
    if code is None:
        what = f"ran longer than {timeout:g} s and was stopped"
    elif code < 0:
        what = f"was killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            what += " (out of memory, most often)"
    else:
        what = f"ended with exit code {code}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    quoted = "\n".join(f"    | {line}" for line in lines)
    return WorkerError(
        f"the worker process that should {kind} {what}", given=f"last lines of {log}\n{quoted}"
    )


# ---------------------------------------------------------------- inside the worker process


def _quantize(payload: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    quantizer = relocate(payload["quantizer"])
    quantizer.versions()
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
    return {"seconds": time.monotonic() - started}


def _convert(payload: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    convert_gguf(Path(payload["file"]), Path(payload["out"]))
    progress(1, 1, "files")
    return {}


def _measure(payload: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    from transformers import AutoTokenizer

    directory = Path(payload["directory"])
    load = relocate(payload["quantizer"]).load if payload["quantizer"] else load_pretrained
    protocol = Protocol(**payload["protocol"])
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    tokens = perplexity.tokenize(tokenizer, payload["documents"], protocol.join)
    windows = protocol.windows(len(tokens), payload["max_tokens"])
    model = load(directory, payload["device"], payload["dtype"])
    started = time.monotonic()
    measured = perplexity.measure_windows(
        model,
        tokens,
        windows,
        bos=tokenizer.bos_token_id if protocol.bos == "window" else None,
        batch_size=payload["batch_size"],
        progress=progress,
    )
    return {
        "windows": {
            "nll": measured.nll,
            "tokens": measured.tokens,
            "nonfinite": measured.nonfinite,
            "stream": measured.stream,
        },
        "device": _describe_device(payload["device"]),
        "seconds": time.monotonic() - started,
    }


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


def installed_versions(*distributions: str) -> dict[str, str]:
    """Versions of what shapes every figure, and of ``distributions``; absent ones are left out."""
    versions = {"python": platform.python_version()}
    for name in ("pytest-tenpak", "torch", "transformers", "tokenizers", *distributions):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _watch_parent(parent: int) -> None:
    """End with the pytest process that asked, even when it was killed and could not say so."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main(folder: Path) -> None:
    """Do the job in ``folder`` and leave the answer there."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    sys.path.extend(entry for entry in job["sys_path"] if entry not in sys.path)
    threading.Thread(target=_watch_parent, args=(job["parent"],), daemon=True).start()
    last = 0.0

    def progress(done: int, total: int, unit: str) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last > _POLL_SECONDS:
            last = time.monotonic()
            with (folder / "progress.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([done, total, unit]) + "\n")

    try:
        answer = {"answer": JOBS[job["kind"]](job["payload"], progress)}
    except TenpakError as error:
        answer = {"error": error.to_dict()}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
