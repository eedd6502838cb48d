"""Running steps, each in a process of its own and within its time, so that a failure costs only itself."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, TOO_LONG = "passed", "failed", "stopped at its limit"
_LINES = 30


@dataclass(frozen=True)
class Step:
    """A command with the seconds that it is entitled to, and what reads figures from what it wrote."""

    name: str
    what: str
    seconds: float
    command: Sequence[str]
    folder: Path
    figures: Callable[[], dict[str, Any]] = dict


@dataclass
class Result:
    """How a step ended; ``log`` has the end of what it printed."""

    name: str
    what: str
    limit: float
    status: str
    seconds: float = 0.0
    exit_code: int | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    log: str = ""


def run_steps(
    steps: Sequence[Step],
    environment: Mapping[str, str],
    logs: Path,
    report: Callable[[list[Result]], None] = lambda _: None,
) -> list[Result]:
    """Run all steps, whatever becomes of each; ``report`` is called after each with the results so far.

    What a step leaves of its seconds, the later ones may use: together they never take more than the sum.
    """
    results: list[Result] = []
    saved = 0.0
    for step in steps:
        results.append(run_step(step, step.seconds + saved, environment, logs))
        saved = max(0.0, saved + step.seconds - results[-1].seconds)
        report(results)
    return results


def run_step(step: Step, allowed: float, environment: Mapping[str, str], logs: Path) -> Result:
    """Run one step for ``allowed`` seconds at most, then end it with all that it started."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{step.name}.log"
    result = Result(step.name, step.what, allowed, FAILED)
    started = time.monotonic()
    try:
        result.exit_code = _run(step, allowed, environment, log)
        result.status = PASSED if result.exit_code == 0 else FAILED
    except subprocess.TimeoutExpired:
        result.status = TOO_LONG
    except OSError as fault:
        log.write_text(str(fault), encoding="utf-8")
    result.seconds = time.monotonic() - started
    try:
        result.figures = step.figures()
    except Exception as fault:  # whatever a step left behind: the others go on
        if result.status == PASSED:
            result.status = FAILED
            with log.open("a", encoding="utf-8") as stream:
                print(f"no figures: {type(fault).__name__}: {fault}", file=stream)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    result.log = "\n".join(lines[-_LINES:])
    return result


def _run(step: Step, allowed: float, environment: Mapping[str, str], log: Path) -> int:
    with log.open("wb") as stream:
        process = subprocess.Popen(
            list(step.command),
            cwd=step.folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return process.wait(allowed)
    finally:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
