"""The words that reports share: notes on baselines come from values, and each front end names its own options."""

import json

import pytest
from made_up import outcome

from pytest_tenpak.reports.wording import RUN_OPTIONS, check_cells, headlines, note_words, remedy, title
from pytest_tenpak.verdict.checks import Check, Status
from pytest_tenpak.verdict.kinds import KINDS
from pytest_tenpak.verdict.update import Decided, Lack, Note, Update

NOTES = [
    *(Note(decided, "fine") for decided in Decided),
    *(Note(Decided.NOT_UPDATED, lack=lack) for lack in Lack),
    Note(Decided.MISSING, move=("baselines/old.json", "test_a.py::test_new[a b]")),
    Note(Decided.MISSING_IN_CI, move=("old", "new")),
]


@pytest.mark.parametrize(
    "note", NOTES, ids=lambda note: f"{note.decided.value}-{note.lack}-{bool(note.move)}"
)
def test_every_note_has_words_and_survives_json(note):
    """Whatever the update rule decides is said, and is the same after it travelled to another process."""
    assert len(note_words(note)) > 10
    update = Update(False, True, note=note)
    assert Update.from_dict(json.loads(json.dumps(update.to_dict()))) == update


def test_each_front_end_names_its_own_options():
    """A run speaks of its options, ``tenpak accept`` of its own; the decision is the same value."""
    note = Note(Decided.NOT_UPDATED, lack=Lack.REASON)
    assert '--tenpak-accept "reason"' in note_words(note)
    assert note_words(note, {**RUN_OPTIONS, Lack.REASON: "--reason X"}).endswith("which needs --reason X")


def test_a_command_to_move_can_be_pasted():
    """Names with blanks are quoted."""
    note = Note(Decided.MISSING, move=("old", "test_a.py::test_new[a b]"))
    assert "tenpak move old 'test_a.py::test_new[a b]'" in note_words(note)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_of_check_has_a_row(name):
    """With figures in its unit and a bound with its sign, or the status where there is nothing to bound."""
    kind = KINDS[name]
    bare = check_cells(Check(name, Status.REGRESSED))
    assert (bare.mark, bare.value, bare.bound) == ("✗", "regressed", "")
    difference = 0.1 if kind.relative else None
    cells = check_cells(Check(name, Status.PASSED, 2.0, 1.0, difference, 0.25))
    assert cells.bound.startswith("≥" if kind.at_least else "≤")
    assert bool(cells.difference) == kind.relative
    assert title(Check(name, Status.PASSED, corpus="b.txt")) == f"{kind.title} on b.txt"


def test_a_remedy_is_a_command_only_where_accepting_settles_it():
    """Baselines settle no limit."""
    regressed = outcome("test_a.py::test_a", 1.2)
    assert remedy(regressed).is_command
    assert remedy(regressed).text.startswith("pytest test_a.py::test_a --tenpak-update=failing")
    assert headlines(regressed).startswith("regressed: perplexity vs baseline +20.00%, bound ≤ +0.5%")
    assert not remedy(outcome("test_a.py::test_a", 900.0)).is_command
