"""What both sides of a job read and write in its folder while it runs, on this machine and on others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..progress import Progress

_PROGRESS = "progress.jsonl"


def report_progress(folder: Path, done: int, total: int, unit: str) -> None:
    """Tell whoever waits for the job in ``folder`` how far it has come."""
    with (folder / _PROGRESS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps([done, total, unit]) + "\n")


def pass_on_progress(folder: Path, read: int, progress: Progress) -> int:
    """Pass whole lines of progress on from position ``read``, and return the position after them."""
    try:
        with (folder / _PROGRESS).open("rb") as stream:
            stream.seek(read)
            *lines, rest = stream.read().split(b"\n")
            end = stream.tell() - len(rest)
    except FileNotFoundError:
        return read
    for line in lines:
        progress(*json.loads(line))
    return end


def read_answer(path: Path) -> dict[str, Any] | None:
    """Return what a job answered, an error too; None where there is no whole answer."""
    try:
        answer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return answer
    except (OSError, ValueError):
        return None
