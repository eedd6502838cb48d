"""Small steps add up: what was accepted since the anchor, and entries of other devices."""

import math
from dataclasses import replace

import pytest
from made_up import IDENTITY, accepted, better, comparison, judged, measured, reference

from pytest_tenpak.baselines.entry import Baseline, Entry
from pytest_tenpak.metrics.device_class import CPU_SPREADS
from pytest_tenpak.metrics.intervals import Rule
from pytest_tenpak.metrics.measurement import Layers, Noise
from pytest_tenpak.verdict.against_baseline import is_beyond_anchor
from pytest_tenpak.verdict.checks import Limits, Status, Tolerances
from pytest_tenpak.verdict.update import Lack, Request, decide

#: 64 windows of 4 tokens, unlike one another, so that intervals mean something.
NLL = tuple(9 + 0.5 * math.sin(n) for n in range(64))
TOLERANCES = Tolerances(ppl=0.01)


def worse_by(step: float, tensor_bytes: int = 500, weights: str = "d", **rest):
    """A measurement whose perplexity is ``step`` (relative) above NLL's, a little unevenly."""
    nll = [n + 4 * math.log1p(step) + 1e-4 * math.cos(7 * i) for i, n in enumerate(NLL)]
    return measured(nll, tensor_bytes=tensor_bytes, weights=weights, **rest)


def entry_at(*steps: float, **rest) -> Entry:
    """The entry after accepting one measurement after another."""
    entry = Entry.of(worse_by(steps[0], **rest), reference(NLL))
    for step in steps[1:]:
        entry = Entry.of(worse_by(step, **rest), reference(NLL)).replacing(entry, "fine")
    return entry


def checks(measurement, entry, tolerances=TOLERANCES, **rest):
    verdict = judged(measurement, reference(NLL), entry, Limits(max_rtn_factor=0), tolerances, **rest)
    return {check.name: check for check in verdict.checks}


def test_steps_inside_their_tolerance_regress_once_they_add_up():
    """0.9 % and 0.9 % and 0.9 % were accepted; 0.9 % more is inside the tolerance of 1 % but past three of them."""
    entry = entry_at(0, 0.009, 0.018, 0.027)
    found = checks(worse_by(0.036, weights="e"), entry)
    assert found["ppl_tolerance"].status is Status.PASSED
    assert found["drift"].status is Status.REGRESSED
    assert found["drift"].difference == pytest.approx(0.036, abs=1e-4)
    assert found["drift"].bound == pytest.approx(0.03)
    assert found["drift"].low < found["drift"].difference < found["drift"].high
    assert "+2.70% accepted since the anchor" in found["drift"].evidence


@pytest.mark.parametrize(("limit", "status"), [(3, Status.REGRESSED), (4, Status.PASSED), (0, None)])
def test_the_limit_is_the_users(limit, status):
    """``drift_limit`` counts tolerances; 0 asks nothing."""
    found = checks(worse_by(0.036), entry_at(0, 0.027), Tolerances(ppl=0.01, drift=limit))
    assert (found["drift"].status if "drift" in found else None) is status


def test_a_first_baseline_has_no_drift():
    """Its own tolerance bounds the first step; no second line says the same."""
    assert "drift" not in checks(worse_by(0.005), entry_at(0))


def test_an_improvement_gives_no_licence_and_takes_none():
    """What got better may come back as far as the anchor and three tolerances beyond it, not from the best."""
    entry = entry_at(0.02, 0, 0.009)
    assert checks(worse_by(0.018), entry)["drift"].status is Status.PASSED


@pytest.mark.parametrize(("first", "then"), [(0.05, 0.01), (0.01, 0.05)])
def test_more_text_is_no_drift(first, then):
    """The first half of the text loses another share than the rest: a larger budget moves the loss, no recipe did."""
    nll = [n + 4 * math.log1p(first if i < 32 else then) for i, n in enumerate(NLL)]
    half = Entry.of(measured(nll[:32]), reference(NLL[:32]))
    whole = Entry.of(measured(nll), reference(NLL)).replacing(half, "more text")
    assert abs(whole.figures.loss - half.figures.loss) > 0.015
    assert whole.anchor.drift == 0
    assert not is_beyond_anchor(half, whole, TOLERANCES)
    assert checks(measured(nll), whole)["drift"].status is Status.PASSED
    worse = [n + 4 * math.log1p(0.034) + 1e-4 * math.cos(7 * i) for i, n in enumerate(nll)]
    assert checks(measured(worse), whole)["drift"].status is Status.REGRESSED


def test_compression_drifts_too():
    """0.25 % in three accepted steps is past three tolerances of 0.05 %."""
    entry = entry_at(0, 0, tensor_bytes=2000)
    smaller = Entry.of(worse_by(0, tensor_bytes=2001), reference(NLL)).replacing(entry, "fine")
    found = checks(worse_by(0, tensor_bytes=2002), smaller, Tolerances(compression=0.0006, drift=1.5))
    assert found["compression_tolerance"].status is Status.PASSED
    assert found["compression_drift"].status is Status.REGRESSED


def test_layers_drift_too():
    """A layer that moved 2 % in each of five accepted steps stands 10 % from the anchor, past three times 3 %."""

    def moved(gain):
        return replace(worse_by(0), layers=Layers((1.0, gain), (0.1, 0.1)))

    entry = Entry.of(moved(1.0), reference(NLL))
    for gain in (1.02, 1.04, 1.06, 1.08):
        entry = Entry.of(moved(gain), reference(NLL)).replacing(entry, "fine")
    found = checks(moved(1.10), entry)
    assert found["layers"].status is Status.PASSED
    assert found["layers_drift"].status is Status.REGRESSED
    assert "gain 1.000 → 1.100" in found["layers_drift"].evidence


def test_accepted_figures_that_are_past_the_limit_themselves_regress():
    """A tolerance made tighter later: nothing moved, and yet the drift is too far, until it shrinks again."""
    found = checks(worse_by(0.027), entry_at(0, 0.027), Tolerances(ppl=0.005))
    assert found["ppl_tolerance"].status is Status.PASSED
    assert found["drift"].status is Status.REGRESSED
    assert "+2.70% accepted since the anchor" in found["drift"].evidence
    assert checks(worse_by(0.001), entry_at(0, 0.027), Tolerances(ppl=0.005))["drift"].status is Status.PASSED


def test_accepting_past_the_limit_has_to_be_said_twice():
    """A reason is not enough: the anchor moves only when ``--tenpak-reanchor`` is named too."""
    old, new = entry_at(0), entry_at(0.05)
    measurement = worse_by(0.05)
    verdict = judged(measurement, reference(NLL), old, Limits(max_rtn_factor=0), TOLERANCES)
    refused = decide(verdict, Request("failing", "fine"), False, [(old, new)], TOLERANCES)
    assert not refused.write
    assert not refused.passes
    assert refused.exceeds_drift_limit
    assert refused.note.lack is Lack.REANCHOR
    taken = decide(verdict, Request("failing", "fine", reanchor=True), False, [(old, new)], TOLERANCES)
    assert taken.write
    assert taken.reanchor
    entry = new.replacing(old, taken.reason, taken.reanchor)
    assert entry.anchor.figures == new.figures
    assert entry.anchor.reason == "fine"
    assert not is_beyond_anchor(entry, new, TOLERANCES)


def test_a_passing_case_can_be_anchored_anew():
    """Where nothing is worse and nothing changed, but the drift shall count from here."""
    old = entry_at(0, 0.009)
    new = Entry.of(worse_by(0.009), reference(NLL))
    verdict = judged(worse_by(0.009), reference(NLL), old, Limits(max_rtn_factor=0), TOLERANCES)
    update = decide(verdict, Request("all", "fine", reanchor=True), False, [(old, new)], TOLERANCES)
    assert update.write
    assert update.reanchor
    assert not decide(verdict, Request("all"), False, [(old, new)], TOLERANCES).write


def test_only_improvements_are_taken_where_that_was_asked():
    """``improved`` rewrites what can be tightened, in CI too, and nothing that merely passed."""
    old = better(entry_at(0), 1 / 1.05)
    for step, writes in ((0, True), (0.05, False)):
        measurement = worse_by(step)
        verdict = judged(measurement, reference(NLL), old, Limits(max_rtn_factor=0), TOLERANCES)
        change = (old, Entry.of(measurement, reference(NLL)))
        assert decide(verdict, Request("improved"), True, [change], TOLERANCES).write is writes


def test_measuring_goes_on_until_the_tighter_bound_is_settled():
    """With most of the drift used up, the drift bound is what the windows have to answer."""
    names = [
        criterion.name
        for criterion in comparison(
            worse_by(0, weights="e"), entry_at(0, 0.027), Limits(), TOLERANCES
        ).baseline_criteria()
    ]
    assert names == ["ppl_tolerance", "drift"]
    names = [
        criterion.name
        for criterion in comparison(
            worse_by(0, weights="e"), entry_at(0, 0.001), Limits(), TOLERANCES
        ).baseline_criteria()
    ]
    assert names == ["ppl_tolerance"]


# ---------------------------------------------------------------- other devices


@pytest.mark.parametrize(
    ("wanted", "known", "found"),
    [
        ("cuda-sm90", ["cpu", "cuda-sm80", "cuda-sm90"], ""),
        ("cuda-sm90", ["cpu", "cuda-sm80", "cuda-sm89"], "cuda-sm89"),
        ("cuda-sm75", ["cpu", "cuda-sm80", "cuda-sm89"], "cuda-sm80"),
        ("cuda-sm90", ["cpu"], "cpu"),
        ("cpu-avx2", ["cuda-sm80"], "cuda-sm80"),
        ("cpu-avx2", ["cuda-sm80", "cpu-amx", "cpu-avx512"], "cpu-avx512"),
        ("cpu-amx", ["cpu-avx2", "cpu-avx512_bf16", "cpu-arm64"], "cpu-arm64"),
        ("cpu-arm64", ["cuda-sm80", "cpu-avx2"], "cpu-avx2"),
        ("cpu-avx2", ["cpu"], "cpu"),
    ],
)
def test_the_nearest_device_class(wanted, known, found):
    """Its own entry, else the closest compute capability or CPU, else another kind of device."""
    baseline = Baseline("t", {name: accepted() for name in known})
    entry, entry_device = baseline.entry_for(wanted, any_device=True)
    assert entry is not None
    assert entry_device == found


@pytest.mark.parametrize(
    ("wanted", "known", "found"),
    [
        ("cpu-avx2", ["cpu-avx512_bf16", "cuda-sm80"], "cpu-avx512_bf16"),
        ("cpu-avx512_bf16", ["cpu-x86-64", "cpu-avx2"], "cpu-avx2"),
        ("cpu-avx2", ["cpu"], "cpu"),
        ("cpu-avx2", ["cuda-sm80"], None),
        ("cuda-sm90", ["cuda-sm80", "cpu-avx2"], None),
        ("cpu-avx2", [], None),
    ],
)
def test_only_classes_of_cpus_are_compared_without_being_asked(wanted, known, found):
    """It is measured how far figures move between those; between GPUs by more than any tolerance."""
    baseline = Baseline("t", {name: accepted() for name in known})
    entry, entry_device = baseline.entry_for(wanted)
    assert (entry_device or None) == found
    assert (entry is None) == (found is None)


def test_another_class_of_cpus_is_compared_widened_by_what_kernels_move():
    """By method: as much as benchmarks/cpu_classes.py found, and some; the report says with what it compared."""
    for method, spread in (("nf4", CPU_SPREADS["nf4"]), ("another", max(CPU_SPREADS.values()))):
        identity = {**IDENTITY, "spec": {"method": method, "options": {}}}
        case = replace(
            comparison(worse_by(0), entry_at(0), Limits(), TOLERANCES),
            identity=identity,
            entry=replace(entry_at(0), identity=identity),
            entry_device="cpu-avx512_bf16",
            device="cpu-avx2",
        )
        assert case.spread == case.between_devices == spread
        assert case.baseline_criteria()[0].spread == spread
        assert replace(case, entry_device="").spread == 0
        assert replace(case, device="cuda-sm90").spread == 0


NOISE = Noise(1, 0.0, 0.0, {"batch_size": 0.001, "dtype": 0.02})


def test_another_devices_entry_is_compared_widened_by_the_runtime_noise():
    """2 % in another type was recorded for the same weights, so 2.5 % over a tolerance of 1 % is not told apart."""
    known = replace(entry_at(0), noise=NOISE)
    other = worse_by(0.025, weights="e")
    plain = checks(other, entry_at(0), entry_device="cuda-sm80")["ppl_tolerance"]
    assert plain.status is Status.REGRESSED
    assert "compared with the entry of cuda-sm80" in plain.evidence
    assert "no runtime noise is recorded there" in plain.evidence
    widened = checks(other, known, entry_device="cuda-sm80")["ppl_tolerance"]
    assert widened.status is Status.REGRESSED or not widened.decisive
    assert "widened by 2.00%" in widened.evidence
    assert checks(worse_by(0.05, weights="e"), known, entry_device="cuda-sm80")["ppl_tolerance"].decisive


def test_the_same_weights_on_another_device_have_the_wider_tolerance():
    """Kernels of another device are no changed kernel of this one."""
    same = comparison(worse_by(0), entry_at(0), Limits(), TOLERANCES)
    (criterion,) = replace(same, entry_device="cuda-sm80").baseline_criteria()
    assert criterion.bound == pytest.approx(math.log1p(TOLERANCES.ppl))
    (criterion,) = same.baseline_criteria()
    assert criterion.bound == pytest.approx(math.log1p(TOLERANCES.same_weights))


def test_another_type_compares_only_where_its_noise_is_recorded():
    """Devices measure in their own types; without a record of what that moves, it is another question."""
    half = replace(worse_by(0), identity={**IDENTITY, "dtype": "bfloat16"})
    found = checks(half, entry_at(0), entry_device="cpu")["baseline"]
    assert found.status is Status.INVALID
    assert "(entry of cpu) does not match this case: dtype: 'float32' → 'bfloat16'" in found.evidence
    known = replace(entry_at(0), noise=NOISE)
    assert checks(half, known, entry_device="cpu")["ppl_tolerance"].status is Status.PASSED
    assert checks(half, known)["baseline"].status is Status.INVALID
    other = replace(half, identity={**half.identity, "model": "another"})
    assert checks(other, known, entry_device="cpu")["baseline"].status is Status.INVALID


def test_a_fixed_look_decides_drift_as_well():
    """One look at the end gives the same answer."""
    found = checks(worse_by(0.036), entry_at(0, 0.027), rule=Rule(0.001, fixed=True))
    assert found["drift"].status is Status.REGRESSED
