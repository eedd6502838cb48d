"""NF4 and INT8 with their options, for real, on the trained model: what was asked for is what is on disk."""

import json

import pytest

HIDDEN, INNER, VOCABULARY, LAYERS = 128, 256, 258, 2
ATTENTION, FEED_FORWARD = 4 * HIDDEN * HIDDEN, 3 * HIDDEN * INNER
EMBEDDINGS = VOCABULARY * HIDDEN
#: The head is tied and stays; so do embeddings and norms.
QUANTIZED = LAYERS * (ATTENTION + FEED_FORWARD)


def ledger_of(project, arguments: str) -> dict:
    project.test(f"@pytest.mark.quantize({arguments})\ndef test_it(): pass\n")
    project.run("--tenpak-json=out.json").assert_outcomes(passed=1)
    return json.loads((project.path / "out.json").read_text())["outcomes"][0]["measurement"]["ledger"]


def bits(ledger: dict) -> float:
    return 8 * ledger["layer_bytes"] / ledger["layer_weights"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("method='nf4'", 4 + 32 / 64),
        ("method='nf4', blocksize=256", 4 + 32 / 256),
        ("method='int8'", 8 + 32 / (QUANTIZED / (LAYERS * (5 * HIDDEN + 2 * INNER)))),
    ],
)
def test_bits_per_weight_equal_theory(project, arguments, expected):
    """Block maxima (32 bit per block) and row maxima, plus at most 200 bytes of tables a layer."""
    ledger = ledger_of(project, arguments)
    assert ledger["layer_weights"] == QUANTIZED
    assert ledger["weights"] == QUANTIZED + EMBEDDINGS + (2 * LAYERS + 1) * HIDDEN
    assert 0 <= bits(ledger) - expected <= 8 * 200 * 7 * LAYERS / QUANTIZED


def test_skipped_modules_stay_and_so_does_the_head(project):
    """Naming modules to skip adds to the output head; it does not replace it."""
    ledger = ledger_of(project, "method='nf4', skip_modules=['down_proj']")
    assert ledger["layer_weights"] == QUANTIZED - LAYERS * HIDDEN * INNER
