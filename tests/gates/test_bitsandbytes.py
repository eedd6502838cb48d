"""NF4 and INT8 with their options, for real, on the trained model: what was asked for is what is on disk."""

import json

import pytest
import torch
from tiny import random_model, save
from transformers import BitsAndBytesConfig

from pytest_tenpak.quantizers.loading import load_pretrained

HIDDEN, INNER, VOCABULARY, LAYERS = 128, 256, 258, 2
ATTENTION, FEED_FORWARD = 4 * HIDDEN * HIDDEN, 3 * HIDDEN * INNER
EMBEDDINGS = VOCABULARY * HIDDEN
#: The head is tied and stays; so do embeddings and norms.
QUANTIZED = LAYERS * (ATTENTION + FEED_FORWARD)


def outcome_of(project, arguments: str) -> dict:
    project.test(f"@pytest.mark.quantize({arguments})\ndef test_it(): pass\n")
    project.run("--tenpak-json=out.json").assert_outcomes(passed=1)
    return json.loads((project.path / "out.json").read_text())["outcomes"][0]


def bits(ledger: dict) -> float:
    return 8 * ledger["layer_bytes"] / ledger["layer_weights"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("method='nf4'", 4 + 32 / 64),
        pytest.param("method='nf4', blocksize=128", 4 + 32 / 128, marks=pytest.mark.slow),
        pytest.param("method='nf4', blocksize=32", 4 + 32 / 32, marks=pytest.mark.slow),
        ("method='int8'", 8 + 32 / (QUANTIZED / (LAYERS * (5 * HIDDEN + 2 * INNER)))),
    ],
)
def test_bits_per_weight_equal_theory(project, arguments, expected):
    """Block maxima (32 bit per block) and row maxima, plus at most 200 bytes of tables a layer."""
    outcome = outcome_of(project, arguments)
    ledger = outcome["parts"][0]["measurement"]["ledger"]
    assert ledger["layer_weights"] == QUANTIZED
    assert ledger["weights"] == QUANTIZED + EMBEDDINGS + (2 * LAYERS + 1) * HIDDEN
    assert 0 <= bits(ledger) - expected <= 8 * 200 * 7 * LAYERS / QUANTIZED
    assert abs(outcome["figures"]["ppl_delta"]) < 0.05, "a model that has learned something still knows it"


@pytest.mark.slow
def test_skipped_modules_stay_and_so_does_the_head(project):
    """Naming modules to skip adds to the output head; it does not replace it."""
    ledger = outcome_of(project, "method='nf4', skip_modules=['down_proj']")["parts"][0]["measurement"][
        "ledger"
    ]
    assert ledger["layer_weights"] == QUANTIZED - LAYERS * HIDDEN * INNER


def test_a_block_that_does_not_divide_a_width_is_refused_on_cpu(project):
    """bitsandbytes would compute garbage without a word; nothing is cached or written."""
    project.test("@pytest.mark.quantize(method='nf4', blocksize=256)\ndef test_it(): pass\n")
    result = project.run("--tenpak-device=cpu")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*cannot compute with blocksize=256 on this model",
            "*has an input width of 128",
            "*choose another blocksize*",
        ]
    )
    assert project.baselines == []


def test_output_widths_that_the_packed_kernel_refuses(tmp_path):
    """80 rows are no multiple of 32: the general kernel answers, near the unquantized logits."""
    random = random_model("llama", intermediate_size=80)
    save(random, tmp_path / "model")
    recipe = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    # 80 is no multiple of the block either, so the layers with that input width stay as they are.
    recipe.llm_int8_skip_modules = ["lm_head", "down_proj"]
    quantized = load_pretrained(tmp_path / "model", "cpu", "float32", quantization_config=recipe)
    ids = torch.arange(64)[None]
    with torch.no_grad():
        expected, logits = random(ids).logits, quantized(ids).logits
    assert (logits - expected).norm() / expected.norm() < 0.3


def test_what_stays_unquantized_has_the_type_that_was_asked_for(trained, tmp_path):
    """Norms and embeddings as asked, whatever they are stored in; rotary frequencies as exact as they were made."""
    recipe = BitsAndBytesConfig(load_in_4bit=True)
    load_pretrained(trained, "cpu", "float16", quantization_config=recipe).save_pretrained(tmp_path)
    for wanted in (torch.float32, torch.bfloat16):
        body = load_pretrained(tmp_path, "cpu", str(wanted).removeprefix("torch.")).model
        assert (body.norm.weight.dtype, body.embed_tokens.weight.dtype) == (wanted, wanted)
        assert body.rotary_emb.inv_freq.dtype == torch.float32
