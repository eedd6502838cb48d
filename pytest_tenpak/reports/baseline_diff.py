"""Two states of the baselines compared, for reviewers of new baselines: as text, or as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tabulate import tabulate

from ..baselines.diff import Change, reason_of
from ..baselines.entry import Entry
from ..baselines.identity import MEASURED_ON, identity_changes
from .columns import QUANTITIES, Quantity, quantity_legend
from .escaping import short_name, visible
from .markdown import code


class Row(NamedTuple):
    """One figure before and after, as text; ``verdict`` is ``better``, ``worse`` or empty."""

    name: str
    old: str
    new: str
    difference: str
    verdict: str


# ---------------------------------------------------------------- figures

#: Fields of an identity that must agree for figures of quality to be better or worse.
_QUESTION = (*MEASURED_ON, "metrics_version")


def figure_rows(old: Entry | None, new: Entry | None) -> list[Row]:
    """The figures of either side or both, old and new."""
    same = not (old and new) or all(old.identity.get(n) == new.identity.get(n) for n in _QUESTION)
    rows = (_row(quantity, old, new, same) for quantity in QUANTITIES)
    return [row for row in rows if row.old or row.new]


def _row(quantity: Quantity, old: Entry | None, new: Entry | None, same_question: bool) -> Row:
    before, after = (quantity.show(one.figures, exact=True) if one else "" for one in (old, new))
    was, now = (quantity.value(one.figures) if one else None for one in (old, new))
    if was is None or now is None or was == now:
        return Row(quantity.title, before, after, "", "")
    verdict = ""
    if same_question or quantity.is_size:
        verdict = "better" if quantity.is_better(now, was) else "worse"
    # The change of a share is a difference; other figures change relative to what they were.
    moved = f"{now - was:+.2%}" if quantity.is_share else _relative(was, now)
    return Row(quantity.title, before, after, moved, verdict)


def _relative(was: float, now: float) -> str:
    """The relative change; from ten times on, the factor."""
    if not was:
        return ""
    return f"{now / was:,.0f} times" if now / was >= 10 else f"{now / was - 1:+.2%}"


def remarks(old: Entry | None, new: Entry | None) -> list[str]:
    """What a reviewer has to know in addition to the figures: reasons, and what else changed."""
    if new is None:
        return []
    lines = [f"reason: {reason}"] if (reason := reason_of(new, old)) else []
    if new.anchor.reason and (old is None or new.anchor != old.anchor):
        lines.append(f"new anchor: {new.anchor.reason}")
    if old is None:
        return lines
    lines += [f"identity: {change}" for change in identity_changes(old.identity, new.identity)]
    lines += [f"provenance: {change}" for change in old.provenance.differences(new.provenance)]
    if old.weights_digest != new.weights_digest:
        lines.append("other quantized weights")
    if len(old.tokens) != len(new.tokens):
        lines.append(f"windows: {len(old.tokens)} → {len(new.tokens)}")
    if old.noise != new.noise:
        lines.append("noise calibrated" if new.noise else "calibrated noise removed")
    return lines


# ---------------------------------------------------------------- text and Markdown


def text(rows: Sequence[Change], revision: str, problems: Sequence[str] = ()) -> list[str]:
    """The lines for a terminal."""
    lines = []
    for row in rows:
        came = f" from {short_name(row.moved_from)}" if row.moved_from else ""
        lines.append(f"{short_name(row.name)} [{row.device_class}]: {row.kind}{came}")
        lines += _figures_text(row)
        lines += [f"  {visible(remark)}" for remark in remarks(row.old, row.new)]
        lines.append("")
    return [*lines, *map(visible, problems), _counted(rows, visible(revision))]


def _figures_text(row: Change) -> list[str]:
    if row.old is None or row.new is None:
        shown = (f"{figure.name} {figure.new or figure.old}" for figure in figure_rows(row.old, row.new))
        return [f"  {', '.join(shown)}"]
    if row.old.figures == row.new.figures:
        return []
    cells = [
        [figure.name, figure.old, "→", figure.new, figure.difference, figure.verdict]
        for figure in figure_rows(row.old, row.new)
    ]
    lines = tabulate(cells, tablefmt="plain", disable_numparse=True).splitlines()
    return [f"  {line}".rstrip() for line in lines]


def markdown(rows: Sequence[Change], revision: str, problems: Sequence[str] = ()) -> list[str]:
    """The lines of a table for a pull request, and a list of problems."""
    lines = [f"### Baselines: {_counted(rows, code(visible(revision)))}"]
    if rows:
        titles = ("baseline", "device", "", *(one.title for one in QUANTITIES), "why")
        lines += ["", f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
        lines += ["", quantity_legend(QUANTITIES)]
    if problems:
        lines += ["", *(f"- {code(visible(problem))}" for problem in problems)]
    return lines


def _cells(row: Change) -> Iterator[str]:
    yield code(short_name(row.name))
    yield code(row.device_class)
    yield row.kind + (f" from {code(short_name(row.moved_from))}" if row.moved_from else "")
    shown = {figure.name: figure for figure in figure_rows(row.old, row.new)}
    for quantity in QUANTITIES:
        yield _cell(shown[quantity.title]) if quantity.title in shown else ""
    yield "<br>".join(code(short_name(remark)) for remark in remarks(row.old, row.new))


def _cell(figure: Row) -> str:
    if not figure.old or not figure.new or figure.old == figure.new:
        return figure.new or figure.old
    verdict = f"**{figure.verdict}**" if figure.verdict == "worse" else figure.verdict
    return f"{figure.old} → {figure.new} ({figure.difference}) {verdict}".rstrip()


def _counted(rows: Sequence[Change], revision: str) -> str:
    kinds = [row.kind for row in rows]
    counts = [f"{kinds.count(kind)} {kind}" for kind in ("new", "changed", "moved", "gone") if kind in kinds]
    return f"{', '.join(counts) or 'nothing changed'} since {revision}"
