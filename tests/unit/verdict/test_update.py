"""The update rule: nothing is created in CI, and nothing gets worse, unasked."""

from dataclasses import replace

import pytest
from made_up import accepted, judged, measured, reference

from pytest_tenpak.baselines.entry import AuditedFigures, Entry
from pytest_tenpak.reports.wording import note_words
from pytest_tenpak.verdict.checks import Check, Limits, Status, Tolerances, Verdict
from pytest_tenpak.verdict.update import Request, decide


def verdict_of(status: str, name: str = "layers") -> Verdict:
    return Verdict((Check(name, Status(status)),))


@pytest.mark.parametrize(
    ("status", "mode", "reason", "in_ci", "writes", "passes"),
    [
        ("new", None, None, False, True, True),
        ("new", None, None, True, False, False),
        ("new", "new", None, True, True, True),
        ("new", "failing", None, True, True, True),
        ("regressed", None, None, False, False, False),
        ("regressed", None, "fine", False, False, False),
        ("regressed", "new", "fine", False, False, False),
        ("regressed", "failing", None, False, False, False),
        ("regressed", "failing", "fine", False, True, True),
        ("regressed", "all", None, False, False, False),
        ("regressed", "all", "fine", True, True, True),
        ("invalid", None, None, False, False, False),
        ("invalid", "new", None, False, False, False),
        ("invalid", "failing", None, False, True, True),
        ("error", "all", "fine", False, False, False),
        ("passed", None, None, True, False, True),
        ("improved", "failing", None, False, False, True),
        ("passed", "improved", None, False, False, True),
        ("regressed", "improved", "fine", False, False, False),
        ("new", "improved", None, True, False, False),
    ],
)
def test_the_rule(status, mode, reason, in_ci, writes, passes):
    """Each status under each mode: what is written, and whether the test passes."""
    update = decide(verdict_of(status), Request(mode, reason), in_ci)
    assert (update.write, update.passes) == (writes, passes)


def test_no_update_settles_a_limit_or_a_failed_measurement():
    """A baseline answers the second question only."""
    for name in ("max_ppl_delta", "finite"):
        update = decide(verdict_of("regressed", name), Request("all", "fine"), in_ci=False)
        assert not update.write
        assert not update.passes


def test_a_changed_identity_does_not_excuse_worse_figures():
    """Another recipe may replace the baseline's, but for the worse only with a reason."""
    for nll, reason, writes in (
        ((9, 10, 11), None, True),
        ((9, 10, 11.1), None, False),
        ((9, 10, 11.1), "fine", True),
    ):
        changes = [(accepted(), accepted(nll=nll))]
        update = decide(verdict_of("invalid"), Request("failing", reason), False, changes)
        assert (update.write, update.passes) == (writes, writes)


def test_a_model_that_loses_more_is_worse_whatever_its_perplexity():
    """Of another model the loss against its own reference is compared: a better model excuses no worse recipe."""

    def of(nll, base, model):
        identity = {**accepted().identity, "model": model}
        return Entry.of(replace(measured(nll), identity=identity), reference(base))

    old = of((9.0, 10.0, 11.0), (8.9, 9.9, 10.9), "a")
    for nll, base, writes in (((8.0, 9.0, 10.0), (4.0, 5.0, 6.0), False), ((19.0,) * 3, (18.9,) * 3, True)):
        update = decide(verdict_of("invalid"), Request("failing"), False, [(old, of(nll, base, "b"))])
        assert update.write is writes


def test_an_anchor_is_moved_with_the_identity_where_that_was_asked():
    """Two texts, one edited and one past the drift limit: the next run must not find the drift again."""
    checks = (
        Check("drift", Status.REGRESSED, difference=0.1, bound=0.03, corpus="a"),
        Check("baseline", Status.INVALID, corpus="b"),
    )
    changes = [(accepted(), accepted(nll=(9.0, 10.0, 12.0))), (accepted(), accepted())]
    update = decide(Verdict(checks), Request("failing", "fine", reanchor=True), False, changes)
    assert update.write
    assert update.reanchor
    assert "accepted as worse: fine" in note_words(update.note)


def test_what_fails_beside_another_devices_entry_makes_its_own_only_with_a_reason():
    """Another question is simply new; worse figures need the reason, which is not lost."""
    changes = [(None, accepted())]
    assert decide(verdict_of("invalid"), Request("new"), True, changes).write
    assert not decide(verdict_of("invalid"), Request(), False, changes).write
    assert not decide(verdict_of("regressed"), Request("failing"), False, changes).write
    assert not decide(verdict_of("regressed"), Request("new", "fine"), False, changes).write
    taken = decide(verdict_of("regressed"), Request("failing", "fine"), False, changes)
    assert (taken.write, taken.only_new, taken.reason) == (True, True, "fine")


def test_improved_creates_nothing():
    """In CI or not: only what can be tightened is asked for."""
    update = decide(verdict_of("new"), Request("improved"), False)
    assert (update.write, update.passes) == (False, True)


def test_no_update_forgets_windows():
    """A smaller run is compared, but does not replace what a larger one accepted, reason or not."""
    nll = (9.0, 10.0)
    new, verdict = (
        accepted(nll=nll),
        judged(measured(nll=nll), reference(nll), accepted(), Limits(), Tolerances()),
    )
    assert not decide(verdict, Request("all", "fine"), False, [(accepted(), new)]).write
    assert not decide(verdict_of("regressed"), Request("failing", "fine"), False, [(accepted(), new)]).write


@pytest.mark.parametrize(
    ("nll", "reason", "writes"),
    [
        ((9.0, 10.0, 11.0), None, False),
        ((9.0, 10.0, 10.9999), None, True),
        ((9.0, 10.0, 11.0001), None, False),
        ((9.0, 10.0, 11.0001), "fine", True),
    ],
)
def test_all_rewrites_passing_cases_but_not_for_the_worse_unasked(nll, reason, writes):
    """Same figures leave the file alone, better ones replace it, worse ones need a reason even inside tolerance."""
    new = accepted(nll=nll)
    verdict = judged(measured(nll=nll), reference(), accepted(), Limits(), Tolerances())
    update = decide(verdict, Request("all", reason), in_ci=False, changes=[(accepted(), new)])
    assert update.passes
    assert update.write is writes


def test_all_adds_an_audit_to_figures_that_are_the_same():
    """A baseline from before there was one gets it; without one the file is left alone."""
    verdict = judged(measured(), reference(), accepted(), Limits(), Tolerances())
    audited = replace(accepted(), audit=AuditedFigures(("l.0.up",), (0.1,), (0.99,)))
    for old, new, writes in (
        (accepted(), audited, True),
        (audited, audited, False),
        (audited, accepted(), False),
    ):
        assert decide(verdict, Request("all"), False, [(old, new)]).write is writes


def test_a_regression_on_one_text_is_not_hidden_by_another_baselines_identity():
    """Two corpora: one regressed, one invalid with figures no worse. Updating still needs a reason."""
    verdict = Verdict(
        (
            Check("layers", Status.REGRESSED, difference=0.1, bound=0.03, corpus="a"),
            Check("baseline", Status.INVALID, corpus="b"),
        )
    )
    changes = [(accepted(), accepted()), (accepted(), accepted())]
    assert not decide(verdict, Request("failing"), False, changes).write
    assert decide(verdict, Request("failing", "fine"), False, changes).write


def test_a_layer_that_got_worse_inside_its_tolerance_needs_a_reason_too():
    """Else a little more could be accepted each week."""
    verdict = Verdict((Check("layers", Status.PASSED, difference=0.02, bound=0.03),))
    changes = [(accepted(), accepted(nll=(9.0, 10.0, 10.9)))]
    assert not decide(verdict, Request("all"), False, changes).write
    assert decide(verdict, Request("all", "fine"), False, changes).write


def test_what_is_new_beside_what_is_there_leaves_it_alone():
    """A case that gets another corpus creates that baseline and touches no other."""
    update = decide(verdict_of("new"), Request(), False, [(accepted(), accepted()), (None, accepted())])
    assert update.only_new
