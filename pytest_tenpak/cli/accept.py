"""Accept what another machine measured: write baselines from its --tenpak-json report."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from ..errors import SpecError
from ..gate.outcome import Outcome
from ..metrics.intervals import DEFAULT_RULE
from ..plugin import options
from ..reports.escaping import short_name, visible
from ..reports.run_document import read_document
from ..reports.wording import note_words
from ..session.accept import Acceptance, accept
from ..spec import nearest
from ..verdict.update import UPDATES, Lack, Request

#: What an update may lack, by this command's own options.
_OPTIONS = {
    Lack.REASON: '--reason "text"',
    Lack.REANCHOR: "--reanchor",
    Lack.WINDOWS: "as many tokens, and --tenpak-update=failing (in CI too) or --tenpak-fixed; "
    "or accept fewer with --fewer-windows",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and what to accept from it."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a report of --tenpak-json")
    parser.add_argument("--update", choices=tuple(UPDATES), default="failing", help="default: failing")
    parser.add_argument("--reason", metavar="TEXT", help="accept worse figures, and store this reason")
    parser.add_argument("--reanchor", action="store_true", help="make the accepted figures the anchor too")
    parser.add_argument("--only", action="append", metavar="TEST", help="one test, by its id; repeatable")
    parser.add_argument(
        "--fewer-windows", action="store_true", help="accept runs that ended early, or had a smaller budget"
    )


def run(arguments: argparse.Namespace, config: pytest.Config) -> int:
    """Print a line for each gate: written, kept or refused, and why; 1 where one was refused."""
    request = _request(arguments)
    summary = read_document(arguments.file)
    outcomes = _wanted(summary.outcomes, arguments.only)
    twice = Counter((outcome.case.nodeid, outcome.device_class) for outcome in outcomes if outcome.parts)
    folder, store = options.baseline_folder(config), options.cache_store(config)
    refused = 0
    for outcome in outcomes:
        if twice[outcome.case.nodeid, outcome.device_class] > 1:
            why = "the report has several outcomes of it: accept from the report of one shard"
            done = Acceptance("refused", why)
        else:
            done = accept(outcome, request, folder, store, summary.rule or DEFAULT_RULE)
        refused += done.is_refusal
        words = note_words(done.note, _OPTIONS) if done.note else done.why
        print(f"{short_name(outcome.title)}: {visible(f'{done.what}: {words}')}")
    return 1 if refused else 0


def _request(arguments: argparse.Namespace) -> Request:
    reason = arguments.reason
    if reason is not None and not reason.strip():
        raise SpecError("accepting needs a reason", given=repr(reason), remedy="say why the figures are fine")
    if arguments.reanchor and reason is None:
        raise SpecError(
            "--reanchor needs a reason, which is stored with the anchor", remedy='add --reason "text"'
        )
    return Request(arguments.update, reason, arguments.reanchor, arguments.fewer_windows)


def _wanted(outcomes: Sequence[Outcome], only: list[str] | None) -> list[Outcome]:
    """The outcomes of the tests that were named, or all."""
    known = {outcome.case.nodeid for outcome in outcomes}
    for nodeid in only or ():
        if nodeid not in known:
            raise SpecError(
                f"--only: there is no gate {nodeid!r} in the report{nearest(nodeid, known)}",
                given=nodeid,
                accepted=", ".join(sorted(known)) or "none: it has no gates",
            )
    return [outcome for outcome in outcomes if only is None or outcome.case.nodeid in only]
