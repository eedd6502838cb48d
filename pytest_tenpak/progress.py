"""Progress of long work: a bar with rate and time left on a terminal, one line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

#: ``progress(done, total, unit)``: how far a long piece of work has come.
Progress = Callable[[int, int, str], None]


#: A bar without rate and time left, which mean nothing where pieces differ.
_BOARD = "{desc} |{bar}| {n_fmt}/{total_fmt} [{elapsed}]"
_BOARD_SECONDS = 30.0


def ignore(_done: int, _total: int, _unit: str) -> None:
    """Show nothing: a Progress for work that is not displayed."""


@contextmanager
def bar(title: str) -> Iterator[Progress]:
    """Show a tqdm bar on stderr, which disappears when the work is done."""
    from tqdm import tqdm

    with tqdm(desc=title, total=None, leave=False, file=sys.stderr, dynamic_ncols=True) as shown:

        def progress(done: int, total: int, unit: str) -> None:
            shown.total, shown.unit = total, f" {unit}"
            shown.update(done - shown.n)

        yield progress


@contextmanager
def line(title: str, write: Callable[[str], None]) -> Iterator[Progress]:
    """Write one line when the work is done: what, how much, how long."""
    started = time.monotonic()
    tokens = 0

    def progress(done: int, _total: int, unit: str) -> None:
        nonlocal tokens
        tokens = done if unit == "tokens" else tokens

    yield progress
    seconds = time.monotonic() - started
    rate = f", {tokens:,} tokens, {tokens / seconds:,.0f}/s" if tokens and seconds else ""
    write(f"tenpak: {title}: {seconds:.1f} s{rate}")


@contextmanager
def silent() -> Iterator[Progress]:
    """Show nothing."""
    yield ignore


@contextmanager
def board_on_terminal() -> Iterator[Callable[[str, int, int, Sequence[str]], None]]:
    """Show what several pieces of work do together: a tqdm bar on stderr, and lines above it."""
    from tqdm import tqdm

    with tqdm(total=None, leave=False, file=sys.stderr, dynamic_ncols=True, bar_format=_BOARD) as shown:

        def show(words: str, done: int, total: int, lines: Sequence[str]) -> None:
            for text in lines:
                tqdm.write(text, file=sys.stderr)
            shown.total, shown.n = total, done
            shown.set_description_str(f"gates: {words}")

        yield show


@contextmanager
def board_in_lines(write: Callable[[str], None]) -> Iterator[Callable[[str, int, int, Sequence[str]], None]]:
    """Write the lines as they come, and now and then what all do."""
    said, at = "", time.monotonic()

    def show(words: str, _done: int, _total: int, lines: Sequence[str]) -> None:
        nonlocal said, at
        for text in lines:
            write(text)
        if words != said and time.monotonic() - at > _BOARD_SECONDS:
            said, at = words, time.monotonic()
            write(f"tenpak: gates: {words}")

    yield show
