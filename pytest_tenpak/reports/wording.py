"""The words that several reports share: verdicts, checks, notes on baselines, and what to do about them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..gate.outcome import Outcome, Part
from ..gate.summary import Summary
from ..metrics.measurement import Noise
from ..verdict.checks import Check, Status
from ..verdict.kinds import Unit
from ..verdict.update import Decided, Lack, Note
from .blame import blame_lines
from .columns import OTHER_WEIGHTS, percent
from .escaping import short_name, visible
from .speed import speed_lines

#: How many of many gates are named.
_NAMED = 10
#: What is said to have come from the store that machines share; documents are only passed on in it.
_FETCHED = ("checkpoints", "models", "traces")
#: Below this share of quantized weights in the decoder, the share is said.
_NEARLY_ALL = 0.95
#: So many gates' smallest differences are listed; of more, the range.
_FEW = 3
#: From this share of copied text on, the share is said.
_OVERLAP = 0.001
#: From this share of the NLL of guessing on, the reference's is said.
_NEAR_GUESSING = 0.9
#: How a run is asked for what an update lacks; ``tenpak accept`` has options of its own.
RUN_OPTIONS: Mapping[Lack, str] = {
    Lack.REASON: '--tenpak-accept "reason"',
    Lack.REANCHOR: "--tenpak-reanchor",
    Lack.WINDOWS: "as many tokens, and --tenpak-update=failing (in CI too) or --tenpak-fixed",
}
_LACKS = {
    Lack.REASON: "the new figures are worse, which needs {}",
    Lack.REANCHOR: "the drift since its anchor is past the drift limit, which needs {} too",
    Lack.WINDOWS: "this run measured fewer windows than the baseline has; measuring them all needs {}",
}
_DECIDED = {
    Decided.CREATED: "baseline created: review and commit it",
    Decided.CREATED_FOR_DEVICE: "baseline created for this device class",
    Decided.CREATED_FOR_DEVICE_AS_WORSE: "baseline created for this device class, accepted as worse than the "
    "nearest: {detail}",
    Decided.UPDATED: "baseline updated",
    Decided.UPDATED_AS_WORSE: "baseline updated, accepted as worse: {detail}",
    Decided.REANCHORED: "baseline updated, and made the anchor",
    Decided.REPLACED: "baseline replaced: its identity changed",
    Decided.REPLACED_AS_WORSE: "baseline replaced: its identity changed; accepted as worse: {detail}",
    Decided.NOT_CREATED: "not created: {lack}",
    Decided.NOT_UPDATED: "not updated: {lack}",
    Decided.KEPT: "baseline not updated: {lack}",
    Decided.MISSING: "no baseline: --tenpak-update={detail} creates none",
    Decided.MISSING_IN_CI: "no baseline, and CI creates none: create it where you can review it "
    "(run without CI set), or pass --tenpak-update=new",
    Decided.EXPECTED_TO_FAIL: "expected to fail: {detail}",
}


class Remedy(NamedTuple):
    """What to do about a failure: a label such as ``to accept``, and the command to run, or advice."""

    label: str
    advice: str = ""
    command: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The advice, or the command as a shell takes it."""
        return shlex.join(self.command) if self.command else self.advice

    def __str__(self) -> str:
        return f"{self.label}: {self.text}"


# ---------------------------------------------------------------- one check


def title(check: Check) -> str:
    """What a check compares, with the text where a case has several."""
    title = f"{check.kind.title} on {check.corpus}" if check.corpus else check.kind.title
    return f"{title} ({check.tokens:,} tokens)" if check.tokens else title


class CheckCells(NamedTuple):
    """One check as cells of a table."""

    mark: str
    title: str
    before: str
    value: str
    difference: str
    bound: str


def check_cells(check: Check) -> CheckCells:
    """Mark, title, both figures, their difference and its bound."""
    kind = check.kind
    mark = "✗" if check.status.failing else "+" if check.status is Status.IMPROVED else "✓"
    name = title(check)
    if kind.names_evidence:
        name = f"{name} ({check.evidence})"
    if check.bound is None or (check.difference is None and kind.relative):
        return CheckCells(mark, name, "", str(check.status), "", "")
    before, value = (figure(check.kind.unit, number) for number in (check.before, check.value))
    if check.difference is None:
        return CheckCells(mark, name, before, value, "", bound(check))
    return CheckCells(mark, name, before, value, percent(check.difference), bound(check))


def figure(unit: Unit, number: float | None) -> str:
    """A check's figure in its unit; empty where there is none."""
    if number is None:
        return ""
    forms = {
        Unit.RATIO: f"{number:.4f}×",
        Unit.NATS: f"{number:.4f}",
        Unit.SHARE: f"{number:.2%}",
        Unit.PERPLEXITY: f"{number:,.4f}",
    }
    return forms.get(unit, "")


def bound(check: Check) -> str:
    """The bound of a check, with its sign; empty where it has none."""
    kind, most = check.kind, check.bound
    if most is None:
        return ""
    if kind.relative:
        # What may not fall is bounded from below by a negative difference.
        return f"≥ {-most * 100:+g}%" if kind.at_least else f"≤ {most * 100:+g}%"
    sign = "≥" if kind.at_least else "≤"
    forms = {Unit.RATIO: f"{most:g}×", Unit.SHARE: f"{most:.2%}"}
    return f"{sign} {forms.get(kind.unit, f'{most:g}')}"


def headline(check: Check) -> str:
    """One check in a few words: what pytest shows in its one-line summary."""
    if check.kind.failure and check.status.failing:
        return f"{check.kind.failure} on {check.corpus}" if check.corpus else check.kind.failure
    cells = check_cells(check)
    words = f"{cells.title} {cells.difference or cells.value}".rstrip()
    return words + (f", bound {cells.bound}" if cells.bound else "")


def reasons(outcome: Outcome) -> list[str]:
    """Why a gate failed, a line for each failing check: what its decision rests on."""
    failing = (check for check in outcome.verdict.failing if check.evidence)
    # Where the title names the evidence, the headline and the table have it.
    return [f"{title(check)}: {check.evidence}" for check in failing if not check.kind.names_evidence]


# ---------------------------------------------------------------- one gate


def headlines(outcome: Outcome) -> str:
    """The failure of one gate in a line."""
    if outcome.problem:
        return f"{outcome.status}: {'; '.join(check.evidence for check in outcome.verdict.checks)}"
    failing = "; ".join(headline(check) for check in outcome.verdict.failing)
    return f"{outcome.status}: {failing or note_words(outcome.update.note)}"


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


def divergence_line(part: Part) -> str:
    """KL divergence over single tokens of one corpus; empty where none was measured."""
    divergence = part.measurement.divergence
    if divergence is None:
        return ""
    error = "" if divergence.error is None else f" ± {divergence.error:.4f}"
    return (
        f"KL divergence on {part.corpus} ({divergence.kind}, nats): mean {divergence.mean:.4f}"
        f"{error}, median {divergence.median:.4f}, 99% {divergence.p99:.3f}, "
        f"99.9% {divergence.p999:.3f}, max {divergence.maximum:.3f}; "
        f"top-1 agreement {divergence.top1:.2%}, RMS Δp {divergence.rms_dp:.2%}"
    )


def robust_line(part: Part) -> str:
    """What outliers cannot move of the NLL on one corpus; empty where it was not measured."""
    ours, theirs = part.measurement.robust, part.reference.robust
    if not (ours and theirs):
        return ""
    return (
        f"NLL on {part.corpus} (nats, reference → quantized): trimmed mean {theirs.trimmed_mean:.4f} → "
        f"{ours.trimmed_mean:.4f}, median {theirs.median:.4f} → {ours.median:.4f}, "
        f"worst 0.1% of tokens carry {theirs.worst_share:.2%} → {ours.worst_share:.2%}"
    )


def loader(outcome: Outcome) -> str:
    """Who loaded what was measured, and what its quantized layers ran through."""
    if outcome.measurement is None:
        return "nothing was loaded"
    kernel = outcome.measurement.provenance.device.get("kernel")
    return outcome.measurement.loader + (f", layers run through {kernel}" if kernel else "")


def remedy(outcome: Outcome) -> Remedy:
    """The exact command that accepts the new figures, where accepting them clears the failing checks."""
    failing = outcome.verdict.failing
    if any(check.kind.is_about_tolerance for check in failing):
        return Remedy("what to do", "set the tolerance that is named, in the marker or for the run")
    stays = [check for check in failing if not check.kind.is_cleared_by_update]
    if stays:
        advice = stays[0].kind.advice or (
            "updating the baseline does not clear this; quantize better, or change the limit in the marker"
        )
        return Remedy("what to do", advice)
    mode = "new" if outcome.status is Status.NEW else "failing"
    command = ["pytest", outcome.case.nodeid, f"--tenpak-update={mode}"]
    if outcome.status is not Status.NEW:
        command += ["--tenpak-accept", "why this is fine"]
        command += ["--tenpak-reanchor"] if outcome.update.exceeds_drift_limit else []
    return Remedy("to accept", command=tuple(command))


def gains(outcome: Outcome) -> str:
    """How much better than their baseline the improved figures are."""
    improved = (check for check in outcome.verdict.checks if check.status is Status.IMPROVED)
    return ", ".join(f"{percent(check.difference)} of {check.kind.subject}" for check in improved)


# ---------------------------------------------------------------- baselines


def note_words(note: Note | None, options: Mapping[Lack, str] = RUN_OPTIONS) -> str:
    """What was decided about a baseline, in words; ``options`` name what the reader can add."""
    if note is None:
        return ""
    if note.move is not None:
        return _move_words(note)
    lack = _LACKS[note.lack].format(options[note.lack]) if note.lack else ""
    return _DECIDED[note.decided].format(detail=note.detail, lack=lack)


def _move_words(note: Note) -> str:
    assert note.move is not None
    command = shlex.join(["tenpak", "move", *note.move])
    advice = f"an unused baseline matches this case; to move it here: {command}"
    if note.decided is Decided.MISSING_IN_CI:
        return f"{_DECIDED[note.decided]}; {advice}"
    return f"no baseline, but {advice}; or --tenpak-update=new to create a new one"


def notes(outcomes: Sequence[Outcome], written: Collection[str]) -> list[str]:
    """What a run did to baselines or left to do, a line each; ``written`` are the files it wrote."""
    other = any(part.other_weights for outcome in outcomes for part in outcome.parts)
    lines = (
        [f"{OTHER_WEIGHTS}: the quantized weights are not those that the baseline was accepted for"]
        if other
        else []
    )
    lines += _compared_lines(outcomes)
    # Workers of xdist each find out by themselves that a store cannot be used.
    lines += dict.fromkeys(f for outcome in outcomes if outcome.store for f in outcome.store.faults)
    for outcome in outcomes:
        where = f"{outcome.baseline} [{outcome.device_class}]"
        words = _note_on_baseline(outcome, written)
        if words and outcome.passes:
            lines.append(f"{where}: {words}")
        lines += [
            f"{short_name(outcome.title)}: {title(check)} passed on the point estimate; the interval is not "
            f"decisive: {check.evidence}"
            for check in outcome.verdict.checks
            if check.decisive is False and not check.status.failing and outcome.passes
        ]
        lines += [f"{short_name(outcome.title)}: begun again: {lost}" for lost in outcome.retried]
        about = [*_coverage_lines(outcome), *_audit_lines(outcome), *_text_lines(outcome)]
        about += _store_lines(outcome)
        about += [*speed_lines(outcome), *blame_lines(outcome)] if outcome.passes else []
        lines += [f"{short_name(outcome.title)}: {line}" for line in about]
        lines += [
            f"{where}: noise on {part.corpus}{'' if _stores_noise(outcome) else ', not stored'}: "
            f"{_noise(part.noise)}"
            for part in outcome.parts
            if part.noise
        ]
    return [visible(line) for line in lines]


def _compared_lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Which device class the baseline entries are of; how many gates where it is not one class for all."""
    pairs = Counter(
        (outcome.device_class, part.entry_device)
        for outcome in outcomes
        for part in outcome.parts
        if part.entry_device
    )
    for (own, entry), count in pairs.items():
        which = (
            f"{count} baseline {'entry' if count == 1 else 'entries'}"
            if len(pairs) > 1
            else "baseline entries"
        )
        nearest = f", the device class nearest to {own}" if entry != own else ""
        yield f"compared with {which} of {entry}{nearest}"


def _coverage_lines(outcome: Outcome) -> Iterator[str]:
    """How much of the model the checkpoint holds, and how much of it is quantized, where that is not all."""
    measurement = outcome.measurement
    if measurement is None:
        return
    share = measurement.coverage.quantized_share(measurement.ledger)
    if share and share < _NEARLY_ALL:
        yield f"{share:.0%} of the decoder's weights are quantized; the others are as they were"
    if measurement.coverage.left_out:
        yield f"the checkpoint no longer holds {measurement.coverage.in_words}"


def _audit_lines(outcome: Outcome) -> Iterator[str]:
    """What the audit could not compare, and what differs without effect, or is allowed to."""
    audit = outcome.audit
    if audit is None:
        return
    if audit.why:
        yield audit.why
    if audit.weights and audit.weights.not_compared:
        name, why = next(iter(audit.weights.not_compared.items()))
        count = len(audit.weights.not_compared)
        layers = f"{count:,} layers were" if count > 1 else "1 layer was"
        yield f"the weights of {layers} not compared with the model's: {name} is {why}"
    changed = [str(one) for one in (*audit.files.behaviour, *audit.files.cosmetic)] if audit.files else []
    if changed and outcome.passes:
        more = f" and {len(changed) - _NAMED:,} more" if len(changed) > _NAMED else ""
        named = ", ".join(changed[:_NAMED]) + more
        yield f"files differ from the model's, as allowed or without effect: {named}"


def _store_lines(outcome: Outcome) -> Iterator[str]:
    """What came from the store that machines share, instead of being made here."""
    if outcome.store and outcome.store.fetched:
        counted = (
            f"{count:,} {kind if count > 1 else kind[:-1]}"
            for kind, count in sorted(outcome.store.fetched.items())
            if kind in _FETCHED
        )
        if words := ", ".join(counted):
            yield f"from the store {outcome.store.url}: {words}"


def _text_lines(outcome: Outcome) -> Iterator[str]:
    """What was left out of a text, and how much of it the calibration text has too."""
    for part in outcome.parts:
        if part.nulls:
            rows = "row has" if part.nulls == 1 else "rows have"
            yield f"{part.nulls:,} {rows} no text (null) on {part.corpus}, and were left out"
        if part.corpus_part:
            digest = str(part.measurement.identity["corpus"])
            yield (
                f"of {part.corpus} its first {part.corpus_part:,} characters were used ({digest[:19]}…), "
                f"enough for a budget of {outcome.case.max_tokens:,} tokens"
            )
        share = part.reference.guessing
        if share is not None and share > _NEAR_GUESSING:
            how = "worse than" if share > 1 else "little better than"
            yield (
                f"the unquantized model predicts {part.corpus} {how} by guessing (perplexity "
                f"{part.reference.perplexity:,.0f} among {part.reference.vocabulary:,} tokens)"
            )
        if part.overlap >= _OVERLAP:
            yield (
                f"{part.overlap:.1%} of {part.corpus} or of the calibration text was copied from the other, "
                f"which max_overlap={outcome.case.max_overlap:g} allows"
            )


def resolution_line(outcomes: Sequence[Outcome]) -> list[str]:
    """Which differences of perplexity the gates could not have told from none: of each, or the range."""
    found = {
        short_name(outcome.title): part.resolution
        for outcome in outcomes
        for part in outcome.parts[:1]
        if part.resolution is not None
    }
    if not found:
        return []
    shown = ", ".join(f"{_rounded(value)} in {name}" for name, value in found.items())
    if len(found) > _FEW:
        least, most = min(found.values()), max(found.values())
        shown = f"{_rounded(least)} to {_rounded(most)}, by gate"
    return [f"differences of perplexity that could not have been told from none: below {shown}"]


def resolution_words(part: Part) -> str:
    """The smallest difference of perplexity that could have been told from none; empty where unknown."""
    if part.resolution is None:
        return ""
    least = _rounded(part.resolution)
    return f"differences of perplexity below {least} on {part.corpus} could not have been told from none"


def _rounded(share: float) -> str:
    return f"{100 * share:.2g}%"


def _note_on_baseline(outcome: Outcome, written: Collection[str]) -> str:
    if outcome.update.write and outcome.baseline not in written:
        return "baseline not written" + (", since the test failed" if outcome.fails else "")
    if outcome.update.note is None and outcome.status is Status.IMPROVED:
        return f"baseline can be tightened by {gains(outcome)}, with --tenpak-update=improved"
    return note_words(outcome.update.note)


def _stores_noise(outcome: Outcome) -> bool:
    """Whether calibrated noise is stored: not if the gate failed for another reason or has no baseline."""
    others = [check for check in outcome.verdict.failing if not check.kind.is_about_tolerance]
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


def unused_lines(unused: Sequence[str]) -> list[str]:
    """Which baselines no test uses, and what to do; nothing where there are none."""
    if not unused:
        return []
    plural, them = ("s", "them") if len(unused) > 1 else ("", "it")
    return [
        f"{len(unused)} unused baseline{plural} (no test uses {them}):",
        *(f"  {visible(path)}" for path in unused),
        f"tenpak prune --yes removes {them}; "
        "where a test was renamed, tenpak move OLD NEW moves its baseline",
    ]


# ---------------------------------------------------------------- a run


def run_words(summary: Summary) -> str:
    """A run in a few words, to begin a sentence or to stand in one."""
    failed = sum(outcome.fails for outcome in summary.outcomes)
    ran = sum(not outcome.skipped for outcome in summary.outcomes)
    if failed:
        return f"{failed} of {ran} gate{'' if ran == 1 else 's'} failed"
    if not ran:
        return "no gate ran"
    if not summary.ran_well:
        return "not all gates ran well"
    skipped = len(summary.outcomes) - ran
    passed = f"all {ran} gates passed" if ran > 1 else "the gate passed"
    return f"{ran} passed, {skipped} skipped" if skipped else passed


def counts(outcomes: Sequence[Outcome], expected: int) -> str:
    """``'12 gates expected, 11 ran'``, skipped ones named."""
    ran = sum(not outcome.skipped for outcome in outcomes)
    skipped = len(outcomes) - ran
    text = f"{expected} gate{'' if expected == 1 else 's'} expected, {ran} ran"
    return f"{text}, {skipped} skipped" if skipped else text


def absent(summary: Summary) -> list[str]:
    """A line with the gates that were expected and of which no outcome came, if there are any."""
    shown = [short_name(gate) for gate in summary.missing[:_NAMED]]
    more = len(summary.missing) - len(shown)
    names = ", ".join(shown) + (f" and {more:,} more" if more else "")
    return [f"did not run: {names}"] if shown else []
