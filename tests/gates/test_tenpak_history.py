"""TenPak's failures and classic slips: each is told apart from the recipe that it spoils."""

import pytest
import tenpak_history
import torch

from pytest_tenpak.diagnosis.weights import audit_weights
from pytest_tenpak.evaluation.corpus import CALIBRATION, load_corpus
from pytest_tenpak.progress import ignore
from pytest_tenpak.quantizers.base import Job
from pytest_tenpak.quantizers.int4.method import Int4
from pytest_tenpak.quantizers.loading import load_pretrained, load_tokenizer
from pytest_tenpak.spec import QuantizeSpec
from pytest_tenpak.verdict.audit import layer_fault

CONFTEST = """
import sys; sys.path.insert(0, {support!r})
import tenpak_history
def pytest_tenpak_register_quantizers(register):
    for quantizer in tenpak_history.WRONG:
        register(quantizer)
"""
#: An asymmetric recipe with all that can be spoiled.
RECIPE = {"group_size": 32, "sym": False, "outlier_fraction": 0.005, "activation_scaling": True}


def quantize(quantizer, model, out, **given):
    """Quantize a model with few samples."""
    spec = QuantizeSpec.build(
        quantizer.method, quantizer.options, {**given, "samples": 2, "sample_length": 64}
    )
    texts = load_corpus(CALIBRATION, out).documents
    quantizer().quantize(Job(spec, model, out, "cpu", "float32", texts, ignore))
    return out


def divergence(model, out):
    """Mean KL divergence from the model on the end of the corpus, which nothing was calibrated on."""
    text = load_corpus("shakespeare", model).documents[0][-2048:]
    ids = torch.tensor(load_tokenizer(model)(text)["input_ids"][:2048]).reshape(16, 128)
    with torch.inference_mode():
        ours, theirs = (
            load_pretrained(one, "cpu", "float32")(ids).logits.log_softmax(-1) for one in (out, model)
        )
    return float((theirs.exp() * (theirs - ours)).sum(-1).mean())


@pytest.fixture(scope="module")
def sound(trained, tmp_path_factory):
    """How far the recipe diverges as it should be."""
    return divergence(trained, quantize(Int4, trained, tmp_path_factory.mktemp("sound") / "out", **RECIPE))


@pytest.mark.parametrize("wrong", tenpak_history.WRONG, ids=lambda wrong: wrong.method)
def test_every_failure_diverges_more_and_is_seen_in_the_weights(wrong, trained, sound, tmp_path):
    """More than twice as far as the sound recipe, and a fault in the audit that names layers."""
    out = quantize(wrong, trained, tmp_path / "out", **RECIPE)
    assert not divergence(trained, out) <= 2 * sound
    audit = audit_weights(out, trained)
    assert [layer.name for layer in audit.layers if layer_fault(layer, 6.0)]


@pytest.mark.slow
def test_the_gate_tells_the_good_from_the_broken(project):
    """Through save, load and measurement: v10 passes, what fed errors forward fails, cheating is invalid."""
    project.pytester.makeconftest(CONFTEST.format(support=str(tenpak_history.__file__).rpartition("/")[0]))
    project.test(
        """
        import pytest
        SMALL = {"samples": 2, "sample_length": 64, "max_tokens": 1260, "max_ppl_delta": 0.1}

        @pytest.mark.quantize(method="tenpak-v10", **SMALL)
        def test_v10(): pass

        @pytest.mark.quantize(method="gptq-lite", group_size=32, **SMALL)
        def test_v67(): pass

        @pytest.mark.quantize(method="tenpak-v10", calibration="text.txt", **SMALL)
        def test_cheat(): pass
        """
    )
    result = project.run("-q")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        ["*::test_cheat *invalid", "*::test_v10 *new", "*::test_v67 *regressed"], consecutive=False
    )
