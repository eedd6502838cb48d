"""What a person reads in a terminal: the failure of one gate, and the table of all."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence

from tabulate import tabulate

from ..measurement import HEADLINE, RATIOS
from ..outcome import Outcome
from ..verdict import Check, Status

#: ``paint(text, status)``: colours a verdict where the terminal has colours.
Paint = Callable[[str, Status], str]

_TITLES = {
    "max_ppl_delta": "perplexity vs reference",
    "max_rtn_factor": "perplexity vs round-to-nearest",
    "min_compression": "compression",
    "ppl_tolerance": "perplexity vs baseline",
    "compression_tolerance": "compression vs baseline",
    "baseline": "baseline",
    "tokenizer": "tokenizer",
    "finite": "finite figures",
    "measured": "measured",
}
_HEADERS = (
    "gate",
    "method",
    "bits/weight",
    "compression",
    "perplexity",
    "Δ reference",
    "Δ baseline",
    "verdict",
)


def failure(outcome: Outcome) -> str:
    """The text of one failed gate: what, how much, against what, what changed, and how to accept it."""
    case = outcome.case
    if outcome.problem:
        return f"{outcome.problem}\n\nmethod: {case.spec}"
    rows = [_check_row(check) for check in outcome.verdict.checks]
    told = "; ".join(_headline(check) for check in outcome.verdict.failing) or outcome.update.note
    lines = [f"{outcome.status}: {told}", f"{case.nodeid} [{case.spec}]", ""]
    lines += tabulate(
        rows, headers=("", "check", "against", "measured", "difference", "bound"), disable_numparse=True
    ).splitlines()
    lines += [
        "",
        *(f"{_title(check)}: {check.evidence}" for check in outcome.verdict.failing if check.evidence),
    ]
    lines += _accounts(outcome)
    return "\n".join(line.rstrip() for line in lines)


def _headline(check: Check) -> str:
    """One check in a few words: what pytest shows in its one-line summary."""
    _, name, _, value, difference, bound = _check_row(check)
    return f"{name} {difference or value}".rstrip() + (f", bound {bound}" if bound else "")


def _accounts(outcome: Outcome) -> list[str]:
    """Where the baseline is, what else differs since it was accepted, and what to do now."""
    lines = [_loaded(outcome), f"baseline: {outcome.baseline} [{outcome.device_class}]"]
    if any(check.status is Status.NEW for check in outcome.verdict.checks):
        lines[1] = f"baseline: none yet, and none is created by a failing test ({outcome.baseline})"
    moved = any(check.name.endswith("_tolerance") for check in outcome.verdict.failing)
    if outcome.changes:
        lines.append("differs in provenance: " + "; ".join(outcome.changes))
    elif moved:
        lines.append("differs in provenance: nothing that is recorded (same versions, same device)")
    if outcome.update.note:
        lines.append(outcome.update.note)
    return [*lines, _remedy(outcome)]


def _loaded(outcome: Outcome) -> str:
    """Who loaded what was measured, and what its quantized layers ran through."""
    if outcome.measurement is None:
        return "loaded: nothing"
    kernel = outcome.measurement.provenance.device.get("kernel")
    return f"loaded by: {outcome.measurement.loader}" + (f", layers run through {kernel}" if kernel else "")


def _remedy(outcome: Outcome) -> str:
    """The exact command that accepts the new figures, where accepting can settle it."""
    if any(check.kind != "tolerance" for check in outcome.verdict.failing):
        return "what to do: no baseline settles this; quantize better, or change the limit in the marker"
    mode = "new" if outcome.status is Status.NEW else "failing"
    command = ["pytest", outcome.case.nodeid, f"--tenpak-update={mode}"]
    if outcome.status is not Status.NEW:
        command += ["--tenpak-accept", "why this is fine"]
    return f"to accept: {shlex.join(command)}"


def _title(check: Check) -> str:
    return _TITLES.get(check.name, check.name)


def _check_row(check: Check) -> list[str]:
    name = f"{_title(check)} ({check.evidence})" if check.name == "min_compression" else _title(check)
    mark = "✗" if check.status.failing else "+" if check.status is Status.IMPROVED else "✓"
    if check.name == "min_compression":
        bound = "" if check.bound is None else f"≥ {check.bound:g}×"
        return [mark, name, "", _times(check.value), "", bound]
    if check.difference is None or check.bound is None:
        return [mark, name, "", str(check.status), "", ""]
    show = _times if "compression" in check.name else _plain
    sign = "≥ -" if "compression" in check.name else "≤ +"
    bound = f"{sign}{check.bound * 100:g}%".replace("+-", "-")
    return [mark, name, show(check.before), show(check.value), _percent(check.difference), bound]


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:,.4f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}×"


def _percent(value: float | None) -> str:
    """Two decimals, or as many as it takes not to show a difference as none.

    Below 1e-7 there is none: baselines are stored to six decimals.
    """
    if value is None:
        return ""
    if abs(value) < 1e-7:
        return "0.00%"
    return f"{value:+.{2 if abs(value) >= 0.0001 else 5}%}"


def table(outcomes: Sequence[Outcome], paint: Paint | None = None) -> list[str]:
    """The summary table, a line per gate, with the denominator of its compression named below."""
    rows = [_row(outcome, paint) for outcome in outcomes]
    lines = tabulate(rows, headers=_HEADERS, disable_numparse=True).splitlines()
    return [
        *lines,
        f"compression: {RATIOS[HEADLINE]}; bits/weight: quantized layers; perplexity: reference → quantized",
    ]


def _row(outcome: Outcome, paint: Paint | None) -> list[str]:
    case = outcome.case
    status = "skipped" if outcome.skipped else str(outcome.status)
    if not outcome.passes and outcome.status is Status.NEW:
        status = "new, refused in CI"
    elif outcome.passes and outcome.status.failing:
        status = f"{status}, accepted"
    verdict = paint(status, outcome.status) if paint else status
    measurement, reference = outcome.measurement, outcome.reference
    if measurement is None or reference is None:
        return [case.nodeid, case.spec.title, "", "", "", "", "", verdict]
    moved = next((c.difference for c in outcome.verdict.checks if c.name == "ppl_tolerance"), None)
    bits = measurement.ledger.bits_per_weight
    return [
        case.nodeid,
        case.spec.title,
        "" if bits is None else f"{bits:.3f}",
        f"{measurement.ledger.ratios[HEADLINE]:.2f}×",
        f"{reference.perplexity:.3f} → {measurement.perplexity:.3f}",
        _percent(measurement.perplexity / reference.perplexity - 1),
        _percent(moved),
        verdict,
    ]


def counts(outcomes: Sequence[Outcome], expected: int) -> str:
    """``'12 gates expected, 11 ran'``, skipped ones named."""
    ran = sum(not outcome.skipped for outcome in outcomes)
    skipped = len(outcomes) - ran
    text = f"{expected} gate{'' if expected == 1 else 's'} expected, {ran} ran"
    return f"{text}, {skipped} skipped" if skipped else text


def notes(outcomes: Sequence[Outcome], written: Collection[str]) -> list[str]:
    """What a run did to baselines or left to do, a line each; ``written`` are the files it wrote."""
    lines = []
    for outcome in outcomes:
        note = outcome.update.note
        if not note and outcome.status is Status.IMPROVED:
            note = "better than its baseline, which can be tightened with --tenpak-update=all"
        if outcome.update.write and outcome.baseline not in written:
            note = "baseline not written, since the test failed"
        if note and outcome.passes:
            lines.append(f"{outcome.baseline} [{outcome.device_class}]: {note}")
    return lines
