"""What a person reads in a terminal: the failure of one gate, and the table of all."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence

from tabulate import tabulate

from ..gate.outcome import Outcome, Part
from ..gate.summary import Summary
from ..metrics.measurement import HEADLINE, RATIOS, Noise
from ..verdict.checks import Check, Status
from .escaping import short_name, visible, visible_lines

#: ``paint(text, status)``: colours a verdict where the terminal has colours.
Paint = Callable[[str, Status], str]

#: How many of many gates are named.
_NAMED = 10
HEADERS = (
    "gate",
    "method",
    "bits/weight",
    "compression",
    "perplexity",
    "Δ reference",
    "KLD",
    "top-1",
    "Δ baseline",
    "tokens",
    "verdict",
)


def failure(outcome: Outcome) -> str:
    """The text of one failed gate: what, how much, against what, what changed, and how to accept it."""
    case = outcome.case
    if outcome.problem:
        return "\n".join([*visible_lines(outcome.problem), "", visible(f"method: {case.spec}")])
    rows = [check_row(check) for check in outcome.verdict.checks]
    lines = [headlines(outcome), f"{short_name(outcome.title)} [{case.spec}]", ""]
    lines += tabulate(
        rows, headers=("", "check", "against", "measured", "difference", "bound"), disable_numparse=True
    ).splitlines()
    lines += [
        "",
        *(f"{title(check)}: {check.evidence}" for check in outcome.verdict.failing if check.evidence),
    ]
    lines += [line for part in outcome.parts for line in told(part)]
    lines += _accounts(outcome)
    return "\n".join(visible(line.rstrip()) for line in lines)


def headlines(outcome: Outcome) -> str:
    """The failure of one gate in a line."""
    if outcome.problem:
        return f"{outcome.status}: {outcome.problem.partition(chr(10))[0]}"
    told = "; ".join(headline(check) for check in outcome.verdict.failing) or outcome.update.note
    return f"{outcome.status}: {told}"


def told(part: Part) -> list[str]:
    """The figures of one corpus that no check bounds, a line each."""
    lines = []
    divergence, ours, theirs = (
        part.measurement.divergence,
        part.measurement.robust,
        part.reference.robust,
    )
    if divergence:
        error = "" if divergence.error is None else f" ± {divergence.error:.4f}"
        lines.append(
            f"KL divergence on {part.corpus} ({divergence.kind}, nats): mean {divergence.mean:.4f}"
            f"{error}, median {divergence.median:.4f}, 99% {divergence.p99:.3f}, "
            f"99.9% {divergence.p999:.3f}, max {divergence.maximum:.3f}; "
            f"top-1 agreement {divergence.top1:.2%}, RMS Δp {divergence.rms_dp:.2%}"
        )
    if ours and theirs:
        lines.append(
            f"NLL on {part.corpus} (nats, reference → quantized): trimmed mean {theirs.trimmed_mean:.4f} → "
            f"{ours.trimmed_mean:.4f}, median {theirs.median:.4f} → {ours.median:.4f}, "
            f"worst 0.1% of tokens carry {theirs.worst_share:.2%} → {ours.worst_share:.2%}"
        )
    return lines


def headline(check: Check) -> str:
    """One check in a few words: what pytest shows in its one-line summary."""
    _, name, _, value, difference, bound = check_row(check)
    return f"{name} {difference or value}".rstrip() + (f", bound {bound}" if bound else "")


def _accounts(outcome: Outcome) -> list[str]:
    """Where the baseline is, what else differs since it was accepted, and what to do now."""
    lines = [loaded(outcome), f"baseline: {outcome.baseline} [{outcome.device_class}]"]
    if any(check.status is Status.NEW for check in outcome.verdict.checks):
        lines[1] = f"baseline: none yet, and none is created by a failing test ({outcome.baseline})"
    moved = any(check.kind.is_settled_by_update for check in outcome.verdict.failing)
    changes = list(dict.fromkeys(change for part in outcome.parts for change in part.changes))
    if changes:
        lines.append("differs in provenance: " + "; ".join(changes))
    elif moved:
        lines.append("differs in provenance: nothing that is recorded (same versions, same device)")
    if outcome.update.note:
        lines.append(outcome.update.note)
    return [*lines, remedy(outcome)]


def loaded(outcome: Outcome) -> str:
    """Who loaded what was measured, and what its quantized layers ran through."""
    if outcome.measurement is None:
        return "loaded: nothing"
    kernel = outcome.measurement.provenance.device.get("kernel")
    return f"loaded by: {outcome.measurement.loader}" + (f", layers run through {kernel}" if kernel else "")


def remedy(outcome: Outcome) -> str:
    """The exact command that accepts the new figures, where accepting can settle it."""
    if any(check.name == "noise_floor" for check in outcome.verdict.failing):
        return "what to do: set the tolerance that is named, in the marker or for the run"
    if any(not check.kind.is_settled_by_update for check in outcome.verdict.failing):
        return "what to do: no baseline settles this; quantize better, or change the limit in the marker"
    mode = "new" if outcome.status is Status.NEW else "failing"
    command = ["pytest", outcome.case.nodeid, f"--tenpak-update={mode}"]
    if outcome.status is not Status.NEW:
        command += ["--tenpak-accept", "why this is fine"]
        command += ["--tenpak-reanchor"] if outcome.update.exceeds_drift_limit else []
    return f"to accept: {shlex.join(command)}"


def title(check: Check) -> str:
    """What a check compares, with the text where a case has several."""
    title = check.kind.title
    return f"{title} on {check.corpus}" if check.corpus else title


def check_row(check: Check) -> list[str]:
    """Mark, title, both figures, their difference and its bound."""
    name = f"{title(check)} ({check.evidence})" if check.name == "min_compression" else title(check)
    mark = "✗" if check.status.failing else "+" if check.status is Status.IMPROVED else "✓"
    if check.name == "min_compression":
        bound = "" if check.bound is None else f"≥ {check.bound:g}×"
        return [mark, name, "", _times(check.value), "", bound]
    if check.name == "max_kld":
        return [mark, name, "", f"{check.value:.4f}", "", f"≤ {check.bound:g}"]
    if check.name == "min_top1":
        return [mark, name, "", f"{check.value:.2%}", "", f"≥ {check.bound:.2%}"]
    if check.name == "noise_floor":
        return [mark, name, "", f"{check.value:.2%}", "", f"≥ {check.bound:.2%}"]
    if check.difference is None or check.bound is None:
        return [mark, name, "", str(check.status), "", ""]
    show = _times if "compression" in check.name else _plain
    sign = "≥ -" if "compression" in check.name else "≤ +"
    bound = f"{sign}{check.bound * 100:g}%".replace("+-", "-")
    return [mark, name, show(check.before), show(check.value), percent(check.difference), bound]


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:,.4f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}×"


def percent(value: float | None) -> str:
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
    rows = [row for outcome in outcomes for row in table_rows(outcome, paint)]
    lines = tabulate(rows, headers=HEADERS, disable_numparse=True).splitlines()
    return [
        *lines,
        f"compression: {RATIOS[HEADLINE]}; bits/weight: quantized layers; perplexity: reference → quantized; "
        "KLD: nats per token from the reference; top-1: same most likely token",
    ]


def table_rows(outcome: Outcome, paint: Paint | None = None) -> list[list[str]]:
    """A row for each corpus, or one without figures."""
    gate, method = short_name(outcome.title), short_name(outcome.case.spec.title)
    status = verdict_words(outcome)
    verdict = paint(status, outcome.status) if paint else status
    if not outcome.parts:
        return [[gate, method, *[""] * (len(HEADERS) - 3), verdict]]
    return [
        [
            gate if len(outcome.parts) == 1 else f"{gate} on {short_name(part.corpus)}",
            method,
            *figures_row(outcome, part),
            verdict,
        ]
        for part in outcome.parts
    ]


def verdict_words(outcome: Outcome) -> str:
    """The verdict, and what was done about it."""
    if outcome.skipped:
        return "skipped"
    if not outcome.passes and outcome.status is Status.NEW:
        return "new, refused in CI"
    if outcome.passes and outcome.fails:
        return f"{outcome.status}, test failed"
    accepted = outcome.passes and outcome.status.failing
    return f"{outcome.status}, accepted" if accepted else str(outcome.status)


def figures_row(outcome: Outcome, part: Part) -> list[str]:
    """The figures of one corpus, from bits per weight to tokens, as HEADERS names them."""
    measurement, reference = part.measurement, part.reference
    of_part = [check for check in outcome.verdict.checks if check.corpus in ("", part.corpus)]
    moved = next((check.difference for check in of_part if check.name == "ppl_tolerance"), None)
    bits, divergence = measurement.ledger.bits_per_weight, measurement.divergence
    return [
        "" if bits is None else f"{bits:.3f}",
        f"{measurement.ledger.ratios[HEADLINE]:.2f}×",
        f"{reference.perplexity:.3f} → {measurement.perplexity:.3f}",
        percent(measurement.perplexity / reference.perplexity - 1),
        "" if divergence is None else f"{'' if divergence.is_exact else '≥ '}{divergence.mean:.4f}",
        "" if divergence is None else f"{divergence.top1:.1%}",
        percent(moved),
        f"{measurement.windows.total_tokens:,} of {measurement.budget:,}",
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
            note = f"baseline can be tightened by {gains(outcome)}, with --tenpak-update=improved"
        if outcome.update.write and outcome.baseline not in written:
            note = "baseline not written" + (", since the test failed" if outcome.fails else "")
        if note and outcome.passes:
            lines.append(f"{outcome.baseline} [{outcome.device_class}]: {note}")
        lines += [
            f"{short_name(outcome.title)}: {title(check)} passed on the point estimate; the interval is not "
            f"decisive: {check.evidence}"
            for check in outcome.verdict.checks
            if check.decisive is False and not check.status.failing and outcome.passes
        ]
        lines += [
            f"{outcome.baseline} [{outcome.device_class}]: noise on {part.corpus}"
            f"{'' if _keeps_noise(outcome) else ', not stored'}: {_noise(part.noise)}"
            for part in outcome.parts
            if part.noise
        ]
    return [visible(line) for line in lines]


def summary_lines(summary: Summary, paint: Paint | None = None) -> list[str]:
    """What a run says when it ends: table, how many gates ran, notes, what is missing or unused or wrong."""
    return [
        *table(summary.outcomes, paint),
        counts(summary.outcomes, len(summary.expected)),
        *notes(summary.outcomes, summary.written),
        *absent(summary),
        *(line for problem in summary.problems for line in visible_lines(problem)),
        *unused_lines(summary.unused),
    ]


def absent(summary: Summary) -> list[str]:
    """A line with the gates that were expected and of which nothing was heard, if there are any."""
    shown = [short_name(gate) for gate in summary.missing[:_NAMED]]
    more = len(summary.missing) - len(shown)
    names = ", ".join(shown) + (f" and {more:,} more" if more else "")
    return [f"did not run: {names}"] if shown else []


def gains(outcome: Outcome) -> str:
    """How much better than their baseline the figures are that are."""
    return ", ".join(
        f"{percent(check.difference)} of {check.kind.subject}"
        for check in outcome.verdict.checks
        if check.status is Status.IMPROVED
    )


def unused_lines(unused: Sequence[str]) -> list[str]:
    """Which baselines no test answers to any more, and what to do; nothing where there are none."""
    if not unused:
        return []
    plural, them = ("s", "them") if len(unused) > 1 else ("", "it")
    return [
        f"{len(unused)} unused baseline{plural} (no test uses {them}):",
        *(f"  {visible(path)}" for path in unused),
        f"tenpak prune --yes removes {them}; "
        "where a test was renamed, tenpak move OLD NEW keeps its baseline",
    ]


def _keeps_noise(outcome: Outcome) -> bool:
    """Whether what was calibrated is stored: not if the gate failed for another reason or has no baseline."""
    others = [check for check in outcome.verdict.failing if check.name != "noise_floor"]
    is_new = any(check.status is Status.NEW for check in outcome.verdict.checks)
    return outcome.passes or not (others or is_new)


def _noise(noise: Noise) -> str:
    """What was calibrated, in words."""
    if noise.spread:
        times = f"{noise.requantizations} requantizations"
        again = f"{times} spread by {noise.spread:.3%}, layers by up to {noise.layers:.3f}"
    else:
        again = "quantizing again gives the same weights"
    runtime = ", ".join(f"{name} {moved:.4%}" for name, moved in sorted(noise.runtime.items()))
    return f"{again}; the same weights with other {runtime}"
