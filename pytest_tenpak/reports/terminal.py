"""What a terminal shows: the failure of one gate, and the table of all, as wide as the terminal is."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterable, Sequence

from tabulate import tabulate

from ..gate.outcome import Outcome
from ..gate.summary import Summary
from ..verdict.checks import Status
from . import wording
from .columns import COLUMNS, Column, Measured, column_legend
from .escaping import short_name, visible, visible_lines

#: ``paint(text, status)``: colours a verdict where the terminal has colours.
Paint = Callable[[str, Status], str]

#: Below this width the table leaves columns out, unless all are asked for.
WIDE = 160
#: A gate's name is never shortened to fewer characters than this.
_SHORTEST_NAME = 12
_CHECK_HEADERS = ("", "check", "against", "measured", "difference", "bound")


def failure(outcome: Outcome, width: int | None = None) -> str:
    """The text of one failed gate: what, how much, against what, what changed, and how to accept it.

    Lines are wrapped at ``width``; None leaves them whole.
    """
    case = outcome.case
    if outcome.problem:
        lines = [*visible_lines(outcome.problem), "", visible(f"method: {case.spec}")]
        return "\n".join(wrapped(lines, width))
    rows = [wording.check_cells(check) for check in outcome.verdict.checks]
    head = wrapped([wording.headlines(outcome), f"{short_name(outcome.title)} [{case.spec}]"], width)
    checks = _check_table(rows, width)
    lines = list(wording.reasons(outcome))
    for part in outcome.parts:
        lines += [line for line in (wording.divergence_line(part), wording.robust_line(part)) if line]
    lines += _accounts(outcome)
    return "\n".join(
        [
            *(visible(line) for line in head),
            "",
            *(visible(line.rstrip()) for line in checks),
            "",
            *wrapped((visible(line) for line in lines), width),
            *_remedy_lines(outcome, width),
        ]
    )


def _check_table(rows: Sequence[wording.CheckCells], width: int | None) -> list[str]:
    """The checks, in the width that there is: what they are compared with goes first, then ends of titles."""
    lines = tabulate(rows, headers=_CHECK_HEADERS, disable_numparse=True).splitlines()
    if width is None or max(map(len, lines)) <= width:
        return lines
    headers = (*_CHECK_HEADERS[:2], *_CHECK_HEADERS[3:])
    cells = [[row.mark, row.title, row.value, row.difference, row.bound] for row in rows]
    lines = tabulate(cells, headers=headers, disable_numparse=True).splitlines()
    over = max(map(len, lines)) - width
    if over > 0:
        longest = max(len(row.title) for row in rows) - over
        for row in cells:
            row[1] = row[1] if len(row[1]) <= longest else f"{row[1][: max(longest - 1, 1)]}…"
        lines = tabulate(cells, headers=headers, disable_numparse=True).splitlines()
    return lines


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
    if width is None or not remedy.is_command:
        return wrapped([visible(str(remedy))], width)
    lines = [f"{remedy.label}:"]
    for word in map(shlex.quote, shlex.split(remedy.text)):
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


def table(
    outcomes: Sequence[Outcome],
    paint: Paint | None = None,
    width: int | None = None,
    all_columns: bool = False,
) -> list[str]:
    """The summary table, a line per gate and corpus, with its titles explained below.

    Below 160 columns it leaves out what matters least until it fits ``width`` (None: any width), and says
    what is missing; ``all_columns`` leaves nothing out. Names are shortened before the table wraps.
    """
    columns, names = _fit(outcomes, width, all_columns)
    hidden = [column.title for column in COLUMNS if column not in columns]
    below = [column_legend(columns)] if column_legend(columns) else []
    if hidden:
        below.append(f"not shown at this width: {', '.join(hidden)}; -v shows all columns")
    return [*_lines(outcomes, columns, paint, names), *wrapped(below, width)]


def _lines(
    outcomes: Sequence[Outcome],
    columns: Sequence[Column],
    paint: Paint | None = None,
    names: int | None = None,
) -> list[str]:
    """The table with these columns, and gates' names of at most ``names`` characters."""
    headers = ["gate", "method", *(column.title for column in columns), "verdict"]
    rows, plain = (
        [row for outcome in outcomes for row in _rows(outcome, columns, one, names)] for one in (paint, None)
    )
    # Headers as a row of their own: tabulate would make each two characters wider than it has to be.
    rule = ["-" * max(map(len, cells)) for cells in zip(headers, *plain, strict=True)]
    lines = tabulate([headers, rule, *rows], tablefmt="plain", disable_numparse=True).splitlines()
    return [line.rstrip() for line in lines]


def _fit(
    outcomes: Sequence[Outcome], width: int | None, all_columns: bool
) -> tuple[list[Column], int | None]:
    """The columns to show, and how long names may be (None: as long as they are)."""
    columns = list(COLUMNS)
    if width is None or all_columns:
        return columns, None
    for rank in sorted({column.rank for column in COLUMNS if column.rank}, reverse=True):
        if width >= WIDE or _width(outcomes, columns) <= width:
            break
        columns = [column for column in columns if column.rank != rank]
    over = _width(outcomes, columns) - width
    if over <= 0:
        return columns, None
    longest = max(len(cells[0]) for outcome in outcomes for cells in _rows(outcome, columns, None, None))
    return columns, max(_SHORTEST_NAME, longest - over)


def _width(outcomes: Sequence[Outcome], columns: Sequence[Column]) -> int:
    """How wide the table is with these columns and whole names."""
    return max(map(len, _lines(outcomes, columns)))


def _rows(
    outcome: Outcome, columns: Sequence[Column], paint: Paint | None, names: int | None
) -> list[list[str]]:
    """A row for each corpus, or one without figures."""
    words = wording.verdict_words(outcome)
    verdict = paint(words, outcome.status) if paint else words
    method = short_name(outcome.case.spec.title)
    if not outcome.parts:
        return [[_name(outcome.title, "", names), method, *[""] * len(columns), verdict]]
    several = len(outcome.parts) > 1
    return [
        [
            _name(outcome.title, part.corpus if several else "", names),
            method,
            *(column.text(Measured(outcome, part)) for column in columns),
            verdict,
        ]
        for part in outcome.parts
    ]


def _name(title: str, corpus: str, limit: int | None) -> str:
    """A gate's name in at most ``limit`` characters: its end, since a test's own name matters most."""
    name = short_name(title) + (f" on {short_name(corpus)}" if corpus else "")
    if limit is None or len(name) <= limit:
        return name
    return f"…{name[len(name) - limit + 1 :]}"


# ---------------------------------------------------------------- a run


def summary_lines(
    summary: Summary, paint: Paint | None = None, width: int | None = None, all_columns: bool = False
) -> list[str]:
    """The end of a run: table, how many gates ran, notes, and what is missing, unused or wrong."""
    lines = [
        wording.counts(summary.outcomes, len(summary.expected)),
        *wording.notes(summary.outcomes, summary.written),
        *wording.absent(summary),
        *(line for problem in summary.problems for line in visible_lines(problem)),
        *wording.unused_lines(summary.unused),
    ]
    return [*table(summary.outcomes, paint, width, all_columns), *wrapped(lines, width)]
