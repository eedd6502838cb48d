"""The run in Markdown, for a file, a step summary or a pull request's comment; never longer than it may be.

Everything that came from outside stands in code spans or fenced blocks, where it stays what it is.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from ..gate.outcome import Outcome
from ..gate.summary import Summary
from .columns import COLUMNS, Measured, column_legend
from .escaping import short_name, visible_lines
from .terminal import failure
from .wording import absent, counts, notes, run_words, unused_lines, verdict_words

#: What GitHub takes of one step's summaries, and of one comment (characters, of which UTF-8 has no more
#: than bytes).
STEP_SUMMARY_BYTES = 1 << 20
COMMENT_BYTES = 65_536
#: By this line a workflow finds the comment that it wrote before.
COMMENT_MARKER = "<!-- pytest-tenpak -->"
#: The shares of the room that problems and the table may take where failures are still to come.
_PROBLEMS_SHARE, _TABLE_SHARE = 0.25, 0.5
_ROOM_FOR_A_NOTE = 200
_HEADERS = ("gate", "method", *(column.title for column in COLUMNS), "verdict")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")


def render(summary: Summary, limit: int = STEP_SUMMARY_BYTES) -> str:
    """The report, in at most ``limit`` bytes of UTF-8; empty where not even its head fits.

    What does not fit is left out by whole rows, lines and gates, failing ones last, and the text says so.
    """
    report = _head(summary)
    if _size(report) > limit:
        return ""
    for section in (_problems, _table, _failures, _notes):
        text = section(summary, limit - _size(report))
        if _size(report) + _size(text) <= limit:
            report += text
    return report


def render_comment(summary: Summary) -> str:
    """The report as a comment, behind the marker that a workflow finds it by."""
    marker = f"{COMMENT_MARKER}\n"
    return marker + render(summary, COMMENT_BYTES - _size(marker))


def code(text: str) -> str:
    """``text`` as inline code that may stand in a table."""
    if not text:
        return ""
    if any(char in "`|\\" for char in text):
        # A code span cannot hold these in a table; entities can, and are no Markdown.
        entities = _PUNCTUATION.sub(lambda found: f"&#{ord(found[0])};", text)
        return f"<code>{entities}</code>"
    return f"`{text}`"


def _size(text: str) -> int:
    return len(text.encode())


def _failing(summary: Summary) -> list[Outcome]:
    return [outcome for outcome in summary.outcomes if outcome.is_refused]


def _head(summary: Summary) -> str:
    return (
        f"### Quantization gates: {run_words(summary)}\n\n{counts(summary.outcomes, len(summary.expected))}\n"
    )


def _problems(summary: Summary, room: int) -> str:
    """Problems outside the gates, and the gates that did not run."""
    lines = [*(line for problem in summary.problems for line in visible_lines(problem)), *absent(summary)]
    block = _fenced(lines, int(room * _PROBLEMS_SHARE))
    return f"\n{block}" if block else ""


def _table(summary: Summary, room: int) -> str:
    """The table; where it must be shorter, the rows of gates that pass go first."""
    outcomes = summary.outcomes
    room = int(room * _TABLE_SHARE) if _failing(summary) else room
    head = f"\n| {' | '.join(_HEADERS)} |\n|{' --- |' * len(_HEADERS)}\n"
    foot = f"\n{column_legend(COLUMNS)}\n"
    rows = {outcome.title: _rows(outcome) for outcome in outcomes}
    left = room - _size(head) - _size(foot)
    if sum(map(_size, rows.values())) > left:
        left -= _ROOM_FOR_A_NOTE
    kept = set()
    for outcome in sorted(outcomes, key=lambda outcome: outcome.passes):
        left -= _size(rows[outcome.title])
        if left < 0:
            break
        kept.add(outcome.title)
    if not kept:
        return ""
    shown = "".join(row for title, row in rows.items() if title in kept)
    return head + shown + _left_out(len(rows) - len(kept), "gate", "this table") + foot


def _rows(outcome: Outcome) -> str:
    """A row for each corpus, or one without figures."""
    gate, method = short_name(outcome.title), short_name(outcome.case.spec.title)
    rows = [
        (f"{gate} on {short_name(part.corpus)}" if len(outcome.parts) > 1 else gate, Measured(outcome, part))
        for part in outcome.parts
    ]
    cells = [(name, [column.text(row) for column in COLUMNS]) for name, row in rows]
    return "".join(
        f"| {code(name)} | {code(method)} | {' | '.join([*figures, verdict_words(outcome)])} |\n"
        for name, figures in cells or [(gate, [""] * len(COLUMNS))]
    )


def _left_out(count: int, what: str, where: str) -> str:
    rest = "the run's log, --tenpak-json and --tenpak-html have all"
    return f"\n{count:,} {what}{'' if count == 1 else 's'} left out of {where}: {rest}.\n" if count else ""


def _failures(summary: Summary, room: int) -> str:
    """The failures, in the order of gates, as many as have room."""
    failing = _failing(summary)
    shown, left = [], room - 2 * _ROOM_FOR_A_NOTE  # the other is for notes
    for outcome in failing:
        name = html.escape(short_name(outcome.title))
        head = f"\n<details><summary><code>{name}</code>: {outcome.status}</summary>\n\n"
        foot = "\n</details>\n"
        block = _fenced(failure(outcome).splitlines(), left - _size(head) - _size(foot))
        if not block:
            break
        shown.append(head + block + foot)
        left -= _size(shown[-1])
    return "".join(shown) + _left_out(len(failing) - len(shown), "failure", "these details")


def _notes(summary: Summary, room: int) -> str:
    """Changes of baselines, made or suggested."""
    lines = [*notes(summary.outcomes, summary.written), *unused_lines(summary.unused)]
    block = _fenced(lines, room - 1)
    return f"\n{block}" if block else _left_out(len(lines), "note", "this report")


def _fenced(lines: Sequence[str], room: int) -> str:
    """The lines in a fence that none of them closes, as many as have room; empty where none has."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    left = room - _size(f"{fence}text\n{fence}\n")
    if sum(_size(line) + 1 for line in lines) > left:
        left -= _ROOM_FOR_A_NOTE
    kept: list[str] = []
    for line in lines:
        left -= _size(line) + 1
        if left < 0:
            break
        kept.append(line)
    if not kept:
        return ""
    body = "".join(f"{line}\n" for line in kept)
    return f"{fence}text\n{body}{fence}\n" + _left_out(len(lines) - len(kept), "line", "this block")
