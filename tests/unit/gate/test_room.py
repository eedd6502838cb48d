"""What a reference's states will take, by its config, is what they take; and the message where that is not free."""

from pathlib import Path

import pytest
from tiny import VOCABULARY, random_model
from traces import SIDE_BY_SIDE, run

from pytest_tenpak.evaluation.decoder_layers import save_layers
from pytest_tenpak.gate.room import no_disk, states_of

SEVEN_BILLION = {"hidden_size": 4096, "num_hidden_layers": 32}


@pytest.mark.parametrize("mode", ["exact", "top-k"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_states_are_estimated_as_large_as_they_are(tmp_path, family, mode):
    """Within a tenth and some kB of headers, for a trace that was really recorded."""
    model = random_model(family)
    trace = run(model, tmp_path, keep=mode)
    save_layers(model, [1, *range(200)], trace.layers_file)
    there = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    expected = states_of(model.config.to_dict(), VOCABULARY, 4, mode)
    assert expected.total(sum(w.scored for w in SIDE_BY_SIDE)) == pytest.approx(there, rel=0.1, abs=4096)


def test_the_states_of_a_large_model_follow_what_is_recorded_of_it():
    """A 7-billion Llama: 8 kB a token and a head of 250 MiB; a head of more than 1 GiB, or a soft cap: top tokens."""
    exact = states_of(SEVEN_BILLION, 32000, 2, "auto")
    assert exact.per_token == pytest.approx(8192, rel=0.01)
    assert exact.once - 32000 * 4096 * 2 == 2 * 32 * 129 * 4096 * 4
    assert states_of(SEVEN_BILLION, 128256, 2, "auto").once > 1 << 30
    top = [
        states_of(SEVEN_BILLION, 256000, 2, "auto"),
        states_of(SEVEN_BILLION, 32000, 2, "top-k"),
        states_of({**SEVEN_BILLION, "final_logit_softcapping": 30.0}, 32000, 2, "auto"),
    ]
    assert {one.per_token for one in top} == {8 * 64 + 16}
    assert states_of({"text_config": SEVEN_BILLION}, 32000, 2, "auto") == exact


def test_the_error_names_the_sum_and_what_can_be_done():
    """What it takes, what is free and where, and three ways out."""
    text = str(no_disk(5 << 30, 1 << 30, Path("/cache")))
    for part in ("up to 5.00 GiB", "1.00 GiB free in /cache", "max_tokens", "top-k", "--tenpak-cache-dir"):
        assert part in text
