"""Timing: which tokens are run, in which order, and when rounds end."""

import pytest
import tiny
import torch

from pytest_tenpak.errors import MeasurementError
from pytest_tenpak.evaluation import speed
from pytest_tenpak.evaluation.speed import LEAST_ROUNDS, ROUNDS, Tokens, cut, run_once, time_rounds
from pytest_tenpak.metrics.intervals import DEFAULT_RULE, Rule
from pytest_tenpak.progress import ignore

TOKENS = Tokens((1, 2, 3, 4), (5, 6))


@pytest.mark.parametrize(
    ("device", "tokens", "context", "prompt", "decoded"),
    [
        ("cpu", 9000, 2048, 256, 16),
        ("cpu", 9000, 128, 112, 16),
        ("cpu", 9000, 8, 4, 4),
        ("cpu", 30, 2048, 15, 15),
        ("cpu", 3, 64, 2, 1),
        ("cuda:0", 9000, 4096, 2048, 32),
        ("cuda:0", 9000, 2048, 2016, 32),
    ],
)
def test_prompt_and_decoded_tokens_fit_into_the_context_together(device, tokens, context, prompt, decoded):
    """At most 256 and 16 on a CPU, 2,048 and 32 on a GPU; of a short text or context, each half."""
    taken = cut(list(range(tokens)), context, device)
    assert (len(taken.prompt), len(taken.following)) == (prompt, decoded)
    assert [*taken.prompt, *taken.following] == list(range(prompt + decoded))


def test_a_text_of_one_token_is_refused():
    """There is nothing to decode after it."""
    with pytest.raises(MeasurementError, match="too short to time"):
        cut([7], 64, "cpu")


class Recorder(torch.nn.Module):
    """A model that runs another, and notes the calls and what they returned."""

    def __init__(self, model, log=None, name=""):
        super().__init__()
        self.model, self.name = model, name
        self.log = [] if log is None else log

    @property
    def device(self):
        return self.model.device

    def forward(self, input_ids, past_key_values=None, use_cache=None, logits_to_keep=0):
        known = past_key_values.get_seq_length() if past_key_values is not None else 0
        found = self.model(
            input_ids=input_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
        )
        self.log.append((self.name, input_ids.shape[1], known, found.logits))
        return found


@pytest.fixture(scope="module")
def model():
    return tiny.random_model("llama")


def test_a_run_is_the_prompt_and_then_each_token_with_the_cache(model):
    """The last logits are those of one pass over all tokens, and no other position's are computed."""
    recorder = Recorder(model)
    seconds = run_once(recorder, TOKENS)
    assert [(length, known) for _, length, known, _ in recorder.log] == [(4, 0), (1, 4), (1, 5)]
    assert all(logits.shape[1] == 1 for *_, logits in recorder.log)
    with torch.inference_mode():
        whole = model(input_ids=torch.tensor([[*TOKENS.prompt, *TOKENS.following]])).logits
    torch.testing.assert_close(recorder.log[-1][-1][:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)
    assert min(seconds) > 0


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_models_of_every_family_are_run(family):
    """Whatever they call the argument for the last position, or without one."""
    assert min(run_once(tiny.random_model(family), TOKENS)) > 0


def test_a_model_without_a_cache_is_refused():
    """The message says what it lacks and what to leave out."""

    class NoCache(Recorder):
        def forward(self, **_named):
            return type("Output", (), {"past_key_values": None})()

    with pytest.raises(MeasurementError, match="no key-value cache") as raised:
        run_once(NoCache(tiny.random_model("llama")), TOKENS)
    assert "leave min_speedup" in str(raised.value)


def test_every_second_round_runs_the_models_in_reverse_order(model):
    """After two runs of each to warm up, so that neither always comes second."""
    log = []
    one, two = Recorder(model, log, "reference"), Recorder(model, log, "checkpoint")
    phases = time_rounds(one, two, TOKENS, {"decode": 1e-9}, DEFAULT_RULE, ignore)
    runs = [name for name, length, *_ in log if length > 1]
    assert runs[:4] == ["reference"] * 2 + ["checkpoint"] * 2
    assert runs[4:8] == ["reference", "checkpoint", "checkpoint", "reference"]
    assert len(runs) == 4 + 2 * phases[0].rounds
    assert [(one.phase, one.tokens) for one in phases] == [("prefill", 4), ("decode", 2)]


def test_rounds_end_once_the_bounds_are_decided_or_at_the_most(model, monkeypatch):
    """A bound far away takes few; at one fixed look, or without a bound, all are timed."""
    clear = time_rounds(model, model, TOKENS, {"decode": 1e-9}, DEFAULT_RULE, ignore)
    assert LEAST_ROUNDS <= clear[0].rounds < ROUNDS
    monkeypatch.setattr(speed, "ROUNDS", LEAST_ROUNDS + 2)
    for bounds, rule in (({"decode": 1e-9}, Rule(fixed=True)), ({}, DEFAULT_RULE)):
        assert time_rounds(model, model, TOKENS, bounds, rule, ignore)[0].rounds == LEAST_ROUNDS + 2


def test_where_time_is_up_the_least_number_of_rounds_is_still_timed(model, monkeypatch):
    """So that there is an interval."""
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    assert time_rounds(model, model, TOKENS, {}, DEFAULT_RULE, ignore)[0].rounds == LEAST_ROUNDS
