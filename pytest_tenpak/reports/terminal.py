"""What a terminal shows: the failure of one gate, and the table of all, as wide as the terminal is."""

from __future__ import annotations

import shlex
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tabulate import tabulate

from ..gate.outcome import Outcome
from ..gate.summary import Summary
from ..verdict.checks import Status
from . import wording
from .blame import blame_lines
from .columns import COLUMNS, Measured, column_legend
from .escaping import short_name, visible, visible_lines
from .speed import speed_lines

#: ``paint(text, status)``: colours a verdict where the terminal has colours.
Paint = Callable[[str, Status], str]

#: Columns are left out before a gate's name has to be shorter than this.
_NAME = 40
#: The fewest characters that names of gates and titles of checks, or names of methods, are shortened to.
_SHORTEST, _METHOD = 12, 8
#: Rather than wrap the titles of checks at fewer characters, their table leaves a column out.
_TITLE = 24
_CHECK_HEADERS = ("", "check", "against", "measured", "difference", "bound")
#: What is between two columns.
_GAP = 2


def failure(outcome: Outcome, width: int | None = None) -> str:
    """The text of one failed gate: what, how much, against what, what changed, and how to accept it.

    Lines are wrapped at ``width``; None leaves them whole.
    """
    case = outcome.case
    if outcome.problem:
        lines = [*visible_lines(outcome.problem), "", visible(f"method: {case.spec}")]
        return "\n".join(wrapped(lines, width))
    head = [wording.headlines(outcome), f"{short_name(outcome.title)} [{case.spec}]"]
    checks = _check_table([wording.check_cells(check) for check in outcome.verdict.checks], width)
    lines = list(wording.reasons(outcome))
    for part in outcome.parts:
        about = (wording.divergence_line(part), wording.robust_line(part), wording.resolution_words(part))
        lines += [line for line in about if line]
    lines += [*speed_lines(outcome), *blame_lines(outcome)]
    lines += _accounts(outcome)
    return "\n".join(
        [
            *wrapped(map(visible, head), width),
            "",
            *map(visible, checks),
            "",
            *wrapped(map(visible, lines), width),
            *_remedy_lines(outcome, width),
        ]
    )


def _check_table(rows: Sequence[wording.CheckCells], width: int | None) -> list[str]:
    """The checks, their titles wrapped where there is too little room."""
    headers: Sequence[str] = _CHECK_HEADERS
    cells = [list(row) for row in rows]
    lines = _grid(headers, cells)
    if width is None or _widest(lines) <= width:
        return lines
    longest = max(len(row.title) for row in rows)
    room = width - (_widest(lines) - longest)
    if room < _TITLE:
        headers, cells = (*headers[:2], *headers[3:]), [[*row[:2], *row[3:]] for row in cells]
        room = width - (_widest(_grid(headers, cells)) - longest)
    for row in cells:
        row[1] = "\n".join(textwrap.wrap(row[1], max(room, _SHORTEST), break_on_hyphens=False))
    return _grid(headers, cells)


def _grid(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose columns are no wider than their cells; these may have several lines."""
    # Headers as a row of their own: tabulate would make each two characters wider than it has to be.
    rule = [
        "-" * max(_widest(cell.split("\n")) for cell in column) for column in zip(headers, *rows, strict=True)
    ]
    lines = tabulate([headers, rule, *rows], tablefmt="plain", disable_numparse=True).splitlines()
    return [line.rstrip() for line in lines]


def _widest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)


def _accounts(outcome: Outcome) -> list[str]:
    """Where the baseline is, and what else differs since it was accepted."""
    lines = [
        f"loaded by: {wording.loader(outcome)}",
        f"baseline: {outcome.baseline} [{outcome.device_class}]",
    ]
    if any(check.status is Status.NEW for check in outcome.verdict.checks):
        lines[1] = f"baseline: none yet, and none is created by a failing test ({outcome.baseline})"
    regressed = any(check.kind.is_cleared_by_update for check in outcome.verdict.failing)
    changes = list(dict.fromkeys(change for part in outcome.parts for change in part.changes))
    if changes:
        lines.append("differs in provenance: " + "; ".join(changes))
    elif regressed:
        lines.append("differs in provenance: nothing that is recorded (same versions, same device)")
    if outcome.update.note:
        lines.append(wording.note_words(outcome.update.note))
    return lines


def _remedy_lines(outcome: Outcome, width: int | None) -> list[str]:
    """What to do; a command that needs several lines can be pasted as it stands."""
    remedy = wording.remedy(outcome)
    if width is None or not remedy.command:
        return wrapped([visible(str(remedy))], width)
    lines = [f"{remedy.label}:"]
    for word in map(shlex.quote, remedy.command):
        if len(lines[-1]) + len(word) + 3 > width and lines[-1].strip():
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}"
    return [visible(line) for line in lines]


def wrapped(lines: Iterable[str], width: int | None) -> list[str]:
    """Lines that are at most ``width`` wide, what follows a break indented; None leaves them whole."""
    if width is None:
        return list(lines)
    found: list[str] = []
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())] + "  "
        found += textwrap.wrap(
            line,
            max(width, 20),
            subsequent_indent=indent,
            break_long_words=False,  # a command or a path that is broken cannot be copied
            break_on_hyphens=False,
        ) or [""]
    return found


# ---------------------------------------------------------------- the table


class _Row(NamedTuple):
    """One gate on one corpus; ``cells`` are those of COLUMNS."""

    outcome: Outcome
    name: str
    method: str
    cells: tuple[str, ...]

    @property
    def verdict(self) -> str:
        return wording.verdict_words(self.outcome)


def table(
    outcomes: Sequence[Outcome], paint: Paint | None = None, width: int | None = None, verbose: bool = False
) -> list[str]:
    """The summary table, a line per gate and corpus, with its titles explained below.

    It leaves out the columns that matter least until it fits ``width`` (None: any width), then it shortens
    names. What it leaves out is named below the table, and listed there if ``verbose``.
    """
    rows = [row for outcome in outcomes for row in _rows(outcome)]
    shown, name, method = _fit(rows, width)
    names = _short_names([row.name for row in rows], name)
    headers = ["gate", "method", *(COLUMNS[n].title for n in shown), "verdict"]
    cells = [
        [short, _cut(row.method, method), *(row.cells[n] for n in shown), row.verdict]
        for short, row in zip(names, rows, strict=True)
    ]
    lines = _grid(headers, cells)
    if paint:  # the last cell of a line, where colour codes move nothing
        lines[2:] = [
            line.removesuffix(row.verdict) + paint(row.verdict, row.outcome.status)
            for line, row in zip(lines[2:], rows, strict=True)
        ]
    return [*lines, *wrapped(_below(rows, shown, verbose), width)]


def _below(rows: Sequence[_Row], shown: Sequence[int], verbose: bool) -> list[str]:
    """The lines below the table: what it leaves out, and what its titles mean."""
    hidden = [n for n in range(len(COLUMNS)) if n not in shown]
    lines = []
    if hidden and verbose:
        for row in rows:
            figures = ", ".join(f"{COLUMNS[n].title} {row.cells[n]}" for n in hidden if row.cells[n])
            lines += [f"{row.name}: {figures}"] if figures else []
    elif hidden:
        titles = ", ".join(COLUMNS[n].title for n in hidden)
        lines.append(f"not shown at this width: {titles} (-v lists them, and all reports have them)")
    explained = COLUMNS if verbose else [COLUMNS[n] for n in shown]
    return [*lines, *filter(None, [column_legend(explained)])]


def _rows(outcome: Outcome) -> list[_Row]:
    """A row for each corpus, or one without figures."""
    name, method = short_name(outcome.title), short_name(outcome.case.spec.title)
    if not outcome.parts:
        return [_Row(outcome, name, method, ("",) * len(COLUMNS))]
    several = len(outcome.parts) > 1
    return [
        _Row(
            outcome,
            f"{name} on {short_name(part.corpus)}" if several else name,
            method,
            tuple(column.text(measured) for column in COLUMNS),
        )
        for part in outcome.parts
        for measured in [Measured(outcome, part)]
    ]


# ---------------------------------------------------------------- fitting it to a width


def _fit(rows: Sequence[_Row], width: int | None) -> tuple[list[int], int | None, int | None]:
    """The columns to show, and how long names and methods may be (None: as long as they are)."""
    shown = list(range(len(COLUMNS)))
    if width is None:
        return shown, None, None
    name = _widest(["gate", *(row.name for row in rows)])
    method = _widest(["method", *(row.method for row in rows)])
    verdict = _widest(["verdict", *(row.verdict for row in rows)])
    wide = [_widest([column.title, *(row.cells[n] for row in rows)]) for n, column in enumerate(COLUMNS)]

    def left() -> int:
        """The width left for names and methods."""
        return width - verdict - _GAP * 2 - sum(wide[n] + _GAP for n in shown)

    for rank in sorted({column.rank for column in COLUMNS if column.rank}, reverse=True):
        if min(name, _NAME) + method <= left():
            break
        shown = [n for n in shown if COLUMNS[n].rank != rank]
    method = min(method, max(left() - min(name, _TITLE), _METHOD))
    return shown, max(left() - method, _SHORTEST), method


def _short_names(names: Sequence[str], limit: int | None) -> list[str]:
    """The names in at most ``limit`` characters: without their folders, without their files, then cut.

    What would be the same as another then keeps its beginning, and is cut only.
    """
    if limit is None:
        return list(names)
    short = {name: _shortened(name, limit) for name in names}
    count = Counter(short.values())
    return [short[name] if count[short[name]] == 1 else _cut(name, limit) for name in names]


def _shortened(name: str, limit: int) -> str:
    """A test's id with as much of its path as there is room for, its middle left out if need be."""
    path, colons, test = name.partition("::")
    folders = path.split("/") if colons else []
    forms = [name, *(f"…/{'/'.join(folders[n:])}::{test}" for n in range(1, len(folders)))]
    forms += [f"…::{test}"] if colons else []
    return next((form for form in forms if len(form) <= limit), _cut(forms[-1], limit))


def _cut(text: str, limit: int | None) -> str:
    """``text`` in at most ``limit`` characters, its middle left out."""
    if limit is None or len(text) <= limit:
        return text
    tail = limit // 2
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


# ---------------------------------------------------------------- a run


def summary_lines(
    summary: Summary, paint: Paint | None = None, width: int | None = None, verbose: bool = False
) -> list[str]:
    """The end of a run: table, how many gates ran, notes, and what is missing, unused or wrong."""
    lines = [
        wording.counts(summary.outcomes, len(summary.expected)),
        *wording.resolution_line(summary.outcomes),
        *wording.notes(summary.outcomes, summary.written),
        *wording.absent(summary),
        *(line for problem in summary.problems for line in visible_lines(problem)),
        *wording.unused_lines(summary.unused),
    ]
    return [*table(summary.outcomes, paint, width, verbose), *wrapped(lines, width)]
