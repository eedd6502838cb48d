"""The checks of an audit: which figures are those of healthy layers, what is named, what may differ."""

import math
from dataclasses import replace

import pytest

from pytest_tenpak.baselines.entry import AuditedFigures
from pytest_tenpak.metrics.audit import (
    CLIPPED,
    COMPENSATED,
    NEAREST,
    ROUNDED_SCALES,
    Audit,
    ChangedField,
    ChangedTensor,
    FilesAudit,
    LayerAudit,
    WeightAudit,
)
from pytest_tenpak.verdict.audit import audit_checks, layer_fault
from pytest_tenpak.verdict.checks import Limits, Status, Tolerances

HEALTHY = LayerAudit(
    "l.0.up", 0.1, 0.995, 0.1, 0.995, 0.004, NEAREST, worst_output=3, output_error=0.12, output_rounded=0.12
)


class Accepted:
    """A baseline entry, as far as an audit reads it."""

    def __init__(self, audit):
        self.audit = audit


def checks_of(audit, limits=None, entry=None, tolerances=None):
    """The checks by name."""
    limits, tolerances = limits or Limits(), tolerances or Tolerances()
    return {check.name: check for check in audit_checks(audit, limits, tolerances, entry)}


def of_layers(*layers, **more):
    """An audit of these layers."""
    return Audit(weights=WeightAudit(layers, **more))


@pytest.mark.parametrize(
    ("rounding", "changed", "fault"),
    [
        (NEAREST, {}, ""),
        (NEAREST, {"error": 0.1002}, ""),
        (NEAREST, {"error": 0.1005}, "error 10.05%"),
        (NEAREST, {"error": 0.0021, "rounded_error": 0.0, "gain": 0.995, "offset": 0.0}, "error 0.21%"),
        (ROUNDED_SCALES, {"error": 0.1009}, ""),
        (ROUNDED_SCALES, {"error": 0.102}, "error 10.20%"),
        (NEAREST, {"gain": 0.9965}, ""),
        (NEAREST, {"gain": 1.005}, "1.0100 times as large"),
        (NEAREST, {"gain": 0.985}, "0.9900 times as large"),
        (NEAREST, {"offset": 0.06}, "shifted by 6.00%"),
        (NEAREST, {"output_error": 0.5}, "output 3 has an error of 50.00%"),
        (NEAREST, {"dead": ("output 3",)}, "output 3 all zero"),
        (NEAREST, {"error": math.nan}, "not finite"),
        (CLIPPED, {"error": 0.14, "gain": 0.96}, ""),
        (CLIPPED, {"gain": 1.015}, "1.0200 times as large"),
        (CLIPPED, {"gain": 0.93}, "0.9350 times as large"),
        (CLIPPED, {"error": 0.16}, "error 16.00%"),
        (COMPENSATED, {"error": 0.33, "gain": 0.985, "output_error": 4.0}, ""),
        (COMPENSATED, {"error": 0.7}, "error 70.00%"),
        (COMPENSATED, {"gain": 1.015}, "1.0200 times as large"),
        (COMPENSATED, {"gain": 0.95}, "0.9550 times as large"),
    ],
)
def test_what_healthy_layers_keep_to(rounding, changed, fault):
    """Depends on how codes are chosen; the fault says which figure it is."""
    found = layer_fault(replace(HEALTHY, rounding=rounding, **changed), most=6.0)
    assert fault in found
    assert bool(found) == bool(fault)


def test_the_factor_of_methods_that_compensate_can_be_moved():
    """0 switches that bound off, and no other."""
    far = replace(HEALTHY, rounding=COMPENSATED, error=0.9)
    assert layer_fault(far, 6.0)
    assert not layer_fault(far, 10.0)
    assert not layer_fault(far, 0.0)
    assert layer_fault(replace(far, dead=("input 1",)), 0.0)


def test_the_worst_tensors_are_named_first_and_the_rest_counted():
    """With the share of all tensors."""
    layers = [replace(HEALTHY, name=f"l.{n}.up", error=0.2 + n / 100) for n in range(6)]
    check = checks_of(of_layers(*layers, HEALTHY, kept=3))["audit"]
    assert check.status is Status.REGRESSED
    assert check.evidence.startswith("l.5.up: error 25.00%, rounding to nearest has 10.00%; l.4.up")
    assert check.evidence.endswith("; and 2 more tensors (6 of 10 tensors)")


def test_a_kept_tensor_that_is_changed_fails_unless_it_may():
    """By name, or by a pattern."""
    changed = ChangedTensor("lm_head.weight", 0.05, "9 of 10 weights differ by more than any rounding")
    audit = of_layers(changed=(changed,))
    assert "lm_head.weight: 9 of 10 weights" in checks_of(audit)["audit"].evidence
    for pattern in ("lm_head.weight", "lm_*", "lm_head"):
        assert checks_of(audit, Limits(may_differ=(pattern,)))["audit"].status is Status.PASSED


@pytest.mark.parametrize(
    ("error", "gain", "status"),
    [
        (0.1, 0.995, Status.PASSED),
        (0.109, 0.995, Status.PASSED),
        (0.08, 0.995, Status.PASSED),
        (0.112, 0.995, Status.REGRESSED),
        (0.1, 1.0005, Status.REGRESSED),
        (0.1, 0.9895, Status.REGRESSED),
        (math.nan, 0.995, Status.REGRESSED),
    ],
)
def test_layers_are_compared_with_the_baseline(error, gain, status):
    """A rise of error beyond the tolerance fails, and a movement of gain by a twentieth of it, either way."""
    entry = Accepted(AuditedFigures(("l.0.up",), (0.1,), (0.995,)))
    layer = replace(HEALTHY, rounding=COMPENSATED, error=error, gain=gain)
    check = checks_of(of_layers(layer), entry=entry)["audit_tolerance"]
    assert check.status is status
    assert "l.0.up: error 10.000% →" in check.evidence


def test_a_layer_that_is_no_longer_quantized_is_named():
    """The baseline had it."""
    entry = Accepted(AuditedFigures(("l.0.up", "l.1.up"), (0.1, 0.1), (0.995, 0.995)))
    check = checks_of(of_layers(HEALTHY), entry=entry)["audit_tolerance"]
    assert (check.status, check.evidence) == (Status.REGRESSED, "no longer quantized: l.1.up")


def test_fields_that_change_behaviour_fail_unless_they_may():
    """Old and new are shown; what is allowed or cosmetic is named in passing."""
    changed = ChangedField("generation.eos_token_id", "2", "0")
    audit = Audit(FilesAudit((changed,), (ChangedField("config.attention_dropout", "0", "1"),)))
    check = checks_of(audit)["files"]
    assert (check.status, check.evidence) == (Status.REGRESSED, "generation.eos_token_id 2 → 0")
    check = checks_of(audit, Limits(may_differ=("generation.*",)))["files"]
    assert check.status is Status.PASSED
    assert "config.attention_dropout 0 → 1" in check.evidence


def test_contradictions_fail_whatever_may_differ():
    """No permission makes a config right that contradicts its weights."""
    audit = Audit(FilesAudit(contradictions=("bits is 8, but the weights have 4",)))
    assert checks_of(audit, Limits(may_differ=("*",)))["files"].status is Status.REGRESSED


def test_fields_are_compared_with_the_baseline():
    """Those that both sides recorded: what a library adds to its config is no change."""
    entry = Accepted(AuditedFigures(files={"quantization.bits": "4", "tokenizer.chat_template": "old"}))
    recipe = {"quantization.bits": "4", "quantization.sym": "true"}
    audit = Audit(FilesAudit((ChangedField("tokenizer.chat_template", "own", "new"),), recipe=recipe))
    check = checks_of(audit, Limits(may_differ=("tokenizer.*",)), entry)["files_tolerance"]
    assert (check.status, check.evidence) == (Status.REGRESSED, "tokenizer.chat_template old → new")
    assert check.kind.is_cleared_by_update


def test_what_was_not_compared_has_no_check():
    """Files alone are audited where weights were left out."""
    assert set(checks_of(Audit(FilesAudit(), None, "too large"))) == {"files"}
    assert not checks_of(Audit())
