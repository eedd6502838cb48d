"""Speed and memory in words: how a checkpoint runs beside the reference, on the machine of the run."""

from __future__ import annotations

from collections.abc import Iterator

from ..gate.outcome import Outcome
from ..metrics.speed import Memory, Speed

_MIB = 1 << 20


def speed_lines(outcome: Outcome) -> list[str]:
    """What was timed and weighed, a line each; nothing where that was not asked for."""
    lines = [speed_line(outcome.speed)] if outcome.speed else []
    return lines + ([memory_line(outcome.memory)] if outcome.memory else [])


def speed_line(speed: Speed) -> str:
    """Both phases as multiples of the reference's, with tokens per second, and how that was timed."""
    rounds = f"{speed.phases[0].rounds} rounds" if speed.phases else "no rounds"
    threads = f", {speed.threads} thread{'' if speed.threads == 1 else 's'}" if speed.threads else ""
    return (
        f"speed over the reference's: {'; '.join(_phases(speed))} ({rounds}, prompt of {speed.prompt:,} "
        f"tokens, {speed.dtype}{threads})"
    )


def _phases(speed: Speed) -> Iterator[str]:
    for one in speed.phases:
        figures = f"{one.checkpoint_speed:,.1f} against {one.reference_speed:,.1f} tokens/s"
        yield f"{one.phase} {one.ratio:.3f}×, {figures}"


def memory_line(memory: Memory) -> str:
    """The peak memory as a multiple of the reference's."""
    return (
        f"peak memory over the reference's: {memory.ratio:.3f}×, {memory.checkpoint / _MIB:,.1f} against "
        f"{memory.reference / _MIB:,.1f} MiB {memory.kind} ({memory.dtype})"
    )
