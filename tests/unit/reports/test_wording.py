"""The words that reports share: notes on baselines come from values, and each front end names its own options."""

import json
from dataclasses import replace

import pytest
from made_up import outcome, unmeasured

from pytest_tenpak.metrics.audit import Audit, ChangedField, FilesAudit, WeightAudit
from pytest_tenpak.reports.wording import (
    RUN_OPTIONS,
    bound,
    check_cells,
    headlines,
    note_words,
    notes,
    reasons,
    remedy,
    title,
)
from pytest_tenpak.verdict.checks import Check, Limits, Status
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


def test_a_remedy_is_a_command_only_where_accepting_clears_the_check():
    """No update of a baseline clears a broken limit."""
    regressed = outcome("test_a.py::test_a[a b]", 1.2)
    assert remedy(regressed).command[:3] == ("pytest", "test_a.py::test_a[a b]", "--tenpak-update=failing")
    assert remedy(regressed).text.startswith("pytest 'test_a.py::test_a[a b]' --tenpak-update=failing")
    assert headlines(regressed).startswith("regressed: perplexity vs baseline +20.00%, bound ≤ +0.5%")
    assert not remedy(outcome("test_a.py::test_a", 900.0)).command


def test_the_headline_of_what_could_not_be_measured_is_what_is_wrong():
    """Not the id, which every report has in its title, and none of what follows on further lines."""
    crash = unmeasured(problem="test_a.py::test_a: no model\n  given:      nothing", evidence="no model")
    assert headlines(crash) == "error: no model"


def test_bounds_have_their_sign():
    """What may rise by so much, may fall by so much, or has to fall."""
    bounds = {"ppl_tolerance": "≤ +0.5%", "compression_tolerance": "≥ -0.5%", "max_kld": "≤ 0.005"}
    assert {name: bound(Check(name, Status.PASSED, 1.0, bound=0.005)) for name in bounds} == bounds
    assert bound(Check("max_ppl_delta", Status.PASSED, 1.0, bound=-0.5)) == "≤ -50%"


def test_what_a_title_names_is_no_reason_of_its_own():
    """The denominator of a compression stands in its title already."""
    limits = Limits(0.1, {"whole_vs_16bit": 9.0})
    lines = reasons(outcome("test_a.py::test_a", 1.2, limits=limits))
    assert [line.partition(":")[0] for line in lines] == [
        *("perplexity vs reference", "perplexity vs baseline", "perplexity vs anchor"),
    ]


def compared(own, entry):
    """A passing outcome of a device class, compared with the entry of one."""
    passing = outcome()
    parts = tuple(replace(part, entry_device=entry) for part in passing.parts)
    return replace(passing, device_class=own, parts=parts)


def test_a_run_says_which_entries_it_was_compared_with():
    """Once for all gates, since another class's entry is nothing that a green run may keep to itself."""
    own, near = compared("cpu-avx2", "cpu-avx2"), compared("cpu-avx2", "cpu-amx")
    nearest = "of cpu-amx, the device class nearest to cpu-avx2"

    def said(*outcomes):
        return [line for line in notes(outcomes, ()) if line.startswith("compared with")]

    assert said(own, own) == ["compared with baseline entries of cpu-avx2"]
    assert said(near, near) == [f"compared with baseline entries {nearest}"]
    assert said(own, near, near) == [
        "compared with 1 baseline entry of cpu-avx2",
        f"compared with 2 baseline entries {nearest}",
    ]
    assert said(compared("cpu-avx2", "")) == []


def test_a_note_says_what_was_not_audited_and_what_may_differ():
    """A gate that passes says what its audit left out, and which fields differ without effect."""
    weights = WeightAudit(not_compared={"l.0.up": "stored as codebook"})
    files = FilesAudit((ChangedField("generation.eos_token_id", "2", "0"),))
    audited = replace(outcome(), audit=Audit(files, weights, "weights were not compared: too large"))
    lines = notes([audited], ())
    assert any("weights were not compared: too large" in line for line in lines)
    assert any("1 layer was not compared with the model's: l.0.up is stored as" in line for line in lines)
    assert any("allowed or without effect: generation.eos_token_id 2 → 0" in line for line in lines)


def test_a_report_says_which_part_of_a_text_was_used():
    """How many characters, their digest, and for what budget; nothing where a text was used whole."""
    whole = outcome(max_tokens=8192)
    part = replace(whole, parts=(replace(whole.parts[0], corpus_part=524_260),))
    (line,) = [line for line in notes([part], ()) if "characters" in line]
    assert line.endswith(
        "of text.txt its first 524,260 characters were used (sha256:cccccccccccc…), "
        "enough for a budget of 8,192 tokens"
    )
    assert not [line for line in notes([whole], ()) if "characters" in line]
