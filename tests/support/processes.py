"""Processes that tests start, and wait for the end of."""

from __future__ import annotations

import time

import psutil


def gone(pids: list[int], seconds: float) -> bool:
    """Whether the processes end within the time; a zombie has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        living = [pid for pid in pids if psutil.pid_exists(pid)]
        if all(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in living):
            return True
        time.sleep(0.02)
    return False
