"""The report for GitHub Actions: annotations at the markers, and a summary of the step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..gate.outcome import Outcome
from ..gate.summary import Summary
from ..verdict.checks import Status
from .escaping import short_name, visible, visible_lines
from .markdown import STEP_SUMMARY_BYTES, render
from .wording import absent, gains, headlines, note_words, reasons, remedy, title

#: How many annotations of a kind GitHub shows of one step.
ANNOTATIONS = 10
_A = {"error": "an error", "warning": "a warning"}


@dataclass(frozen=True)
class Actions:
    """The step that this process is part of: the file its summary goes to, and where the checkout is."""

    step_summary: Path | None
    workspace: Path | None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Actions | None:
        """The step that these environment variables describe; None outside GitHub Actions."""
        if environment.get("GITHUB_ACTIONS") != "true":
            return None
        named = [environment.get(name) for name in ("GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE")]
        summary, workspace = (Path(name) if name else None for name in named)
        return cls(summary, workspace)

    def write_step_summary(self, summary: Summary) -> None:
        """Append the report to the step's summary, as much of it as GitHub still takes; raises OSError."""
        if self.step_summary is None:
            return
        with self.step_summary.open("ab") as stream:
            before = stream.tell()
            text = render(summary, max(STEP_SUMMARY_BYTES - before - 1, 0))
            stream.write(b"\n" * bool(before and text) + text.encode())

    def annotations(self, summary: Summary, root: Path, with_errors: bool = True) -> list[str]:
        """The run's annotations as workflow commands, a line each; ``root`` is where the gates' files are."""
        folder, root, workspace = Path(), root.resolve(), self.workspace and self.workspace.resolve()
        if workspace and root.is_relative_to(workspace):
            folder = root.relative_to(workspace)
        general = [*absent(summary), *summary.problems]
        return [
            *([f"::error title=tenpak::{_text(general)}"] if general else ()),
            *(_commands("error", _errors(summary.outcomes), folder, bool(general)) if with_errors else ()),
            *_commands("warning", _warnings(summary.outcomes), folder),
        ]


def _errors(outcomes: Sequence[Outcome]) -> Iterator[tuple[Outcome, list[str]]]:
    for outcome in outcomes:
        if outcome.is_refused:
            more = [] if outcome.problem else [*reasons(outcome), str(remedy(outcome))]
            yield outcome, [headlines(outcome), *more]


def _warnings(outcomes: Sequence[Outcome]) -> Iterator[tuple[Outcome, list[str]]]:
    """Passing gates that need a look."""
    for outcome in outcomes:
        lines = [
            f"decided by the point estimate: {title(check)}: {check.evidence}"
            for check in outcome.verdict.checks
            if check.decisive is False
        ]
        if outcome.status is Status.IMPROVED:
            lines.insert(0, f"improved: the baseline can be tightened by {gains(outcome)}")
        if outcome.status is Status.NEW or outcome.update.note:
            lines.insert(0, f"{outcome.status}: {note_words(outcome.update.note)}")
        lines += outcome.store.faults if outcome.store else ()
        if lines and outcome.passes:
            yield outcome, lines


def _commands(
    kind: str, gates: Iterable[tuple[Outcome, list[str]]], folder: Path, taken: int = 0
) -> list[str]:
    """The gates' annotations of a kind, of which ``taken`` are spoken for."""
    rows = list(gates)
    more = len(rows) - (ANNOTATIONS - taken)
    if more > 0:
        rows = rows[: ANNOTATIONS - taken]
        rows[-1][1].append(f"{more} more gates have {_A[kind]}: see the summary of this job")
    return [_command(kind, outcome, lines, folder) for outcome, lines in rows]


def _command(kind: str, outcome: Outcome, lines: Iterable[str], folder: Path) -> str:
    case = outcome.case
    properties = {
        "file": visible((folder / case.file).as_posix()),
        "line": str(case.line),
        "title": f"tenpak: {short_name(outcome.title)}",
    }
    named = ",".join(f"{name}={_escaped_property(value)}" for name, value in properties.items())
    return f"::{kind} {named}::{_text(lines)}"


def _text(lines: Iterable[str]) -> str:
    return _escaped("\n".join(line for text in lines for line in visible_lines(text)))


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escaped_property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
