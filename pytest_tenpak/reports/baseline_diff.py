"""Two states of the baselines side by side, for whoever reviews what is accepted: as text, or as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tabulate import tabulate

from ..baselines.diff import Change, reason_of
from ..baselines.entry import Entry, Figures
from ..baselines.identity import MEASURED_ON, identity_changes
from ..metrics.measurement import HEADLINE, RATIOS
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

#: Each figure: its title, how it is shown, and whether less of it is better.
_FIGURES = (
    ("perplexity", "{:.4f}", True),
    ("Δ reference", "{:+.2%}", True),
    ("compression", "{:.4f}×", False),
    ("bits/weight", "{:.3f}", True),
    ("KLD", "{:.4f}", True),
    ("top-1", "{:.2%}", False),
)
#: Fields of an identity without which figures of quality are of another question, neither better nor worse.
_QUESTION = (*MEASURED_ON, "metrics_version")
_SIZES = ("compression", "bits/weight")


def _values(figures: Figures) -> tuple[float | None, ...]:
    delta = figures.perplexity / figures.reference_perplexity - 1
    return (
        *(figures.perplexity, delta, figures.compression),
        *(figures.bits_per_weight, figures.kld, figures.top1),
    )


def figure_rows(old: Entry | None, new: Entry | None) -> list[Row]:
    """The figures of either side or both, beside one another."""
    same = not (old and new) or all(old.identity.get(n) == new.identity.get(n) for n in _QUESTION)
    nothing = (None,) * len(_FIGURES)
    before = _values(old.figures) if old else nothing
    after = _values(new.figures) if new else nothing
    rows = []
    for (name, shown, less), was, now in zip(_FIGURES, before, after, strict=True):
        if was is None and now is None:
            continue
        before_text, after_text = ("" if value is None else shown.format(value) for value in (was, now))
        moved = verdict = ""
        if was is not None and now is not None and was != now:
            # What is a difference or a share already is subtracted; of others the relative change is told.
            moved = f"{now - was:+.2%}" if "%" in shown else _relative(was, now)
            if same or name in _SIZES:
                verdict = "better" if (now < was) == less else "worse"
        rows.append(Row(name, before_text, after_text, moved, verdict))
    return rows


def _relative(was: float, now: float) -> str:
    """The relative change; for what has multiplied, how many times it is as large."""
    if not was:
        return ""
    return f"{now / was:,.0f} times" if now / was >= 10 else f"{now / was - 1:+.2%}"


def remarks(old: Entry | None, new: Entry | None) -> list[str]:
    """What a reviewer has to know beside the figures: reasons, and what else is another."""
    if new is None:
        return []
    lines = [f"reason: {reason}"] if (reason := reason_of(new, old)) else []
    if new.anchor.reason and (old is None or new.anchor != old.anchor):
        lines.append(f"anchored anew: {new.anchor.reason}")
    if old is None:
        return lines
    lines += [f"identity: {change}" for change in identity_changes(old.identity, new.identity)]
    lines += [f"provenance: {change}" for change in old.provenance.differences(new.provenance)]
    if old.weights_digest != new.weights_digest:
        lines.append("other quantized weights")
    if len(old.tokens) != len(new.tokens):
        lines.append(f"windows: {len(old.tokens)} → {len(new.tokens)}")
    if old.noise != new.noise:
        lines.append("noise calibrated" if new.noise else "noise no longer known")
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
    """The lines of a table for a pull request, and of what cannot stand in one."""
    lines = [f"### Baselines: {_counted(rows, code(visible(revision)))}"]
    if rows:
        titles = ("baseline", "device", "", *(name for name, _, _ in _FIGURES), "why")
        lines += ["", f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
        lines += ["", f"compression: {RATIOS[HEADLINE]}; bits/weight: quantized layers; KLD: nats per token"]
    if problems:
        lines += ["", *(f"- {code(visible(problem))}" for problem in problems)]
    return lines


def _cells(row: Change) -> Iterator[str]:
    yield code(short_name(row.name))
    yield code(row.device_class)
    yield row.kind + (f" from {code(short_name(row.moved_from))}" if row.moved_from else "")
    shown = {figure.name: figure for figure in figure_rows(row.old, row.new)}
    for name, _, _ in _FIGURES:
        yield _cell(shown[name]) if name in shown else ""
    yield "<br>".join(code(short_name(remark)) for remark in remarks(row.old, row.new))


def _cell(figure: Row) -> str:
    if not figure.old or not figure.new or figure.old == figure.new:
        return figure.new or figure.old
    told = f"**{figure.verdict}**" if figure.verdict == "worse" else figure.verdict
    return f"{figure.old} → {figure.new} ({figure.difference}) {told}".rstrip()


def _counted(rows: Sequence[Change], revision: str) -> str:
    kinds = [row.kind for row in rows]
    counts = [f"{kinds.count(kind)} {kind}" for kind in ("new", "changed", "moved", "gone") if kind in kinds]
    return f"{', '.join(counts) or 'nothing changed'} since {revision}"
