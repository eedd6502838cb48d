"""Blame finds planted faults: in the right module, with figures that add up, and leaves the models alone."""

import copy
from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, random_model
from traces import SIDE_BY_SIDE, TOKENS, run

from pytest_tenpak.errors import MeasurementError
from pytest_tenpak.evaluation.blame import Models, find_blame, tokens_to_run
from pytest_tenpak.evaluation.parts import differing_parts
from pytest_tenpak.evaluation.perplexity import Scorer
from pytest_tenpak.evaluation.replay import Chosen, Replay

MOE = {
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
}


@pytest.fixture(scope="module")
def llama():
    """A Llama one input of which matters more than the others of its module, as training leaves some."""
    model = random_model("llama", tie_word_embeddings=True, initializer_range=0.05)
    weight(model, "model.layers.1.mlp.down_proj")[:, 0] *= 8
    return model


def weight(model, name):
    """The weights of a module, to be changed."""
    return model.get_submodule(name).weight.data


def measured(reference, checkpoint, folder: Path) -> Models:
    """Both models with their traces."""
    theirs = run(reference, folder / "reference", keep="auto")
    ours = run(checkpoint, folder / "checkpoint", beside=theirs)
    return Models(reference, checkpoint, Scorer(reference, TOKENS), theirs, ours)


def blamed(reference, checkpoint, folder: Path, **how):
    """What is blamed, with a budget that allows all windows."""
    return find_blame(measured(reference, checkpoint, folder), SIDE_BY_SIDE, **{"budget": 50_000, **how})


def noised(model, seed=0, size=0.01):
    """A copy, each linear layer with a little noise, as quantizing it leaves."""
    checkpoint = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for name, module in checkpoint.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            noise = torch.randn(module.weight.shape, generator=generator)
            module.weight.data += size * module.weight.std() * noise
    return checkpoint


def test_a_zeroed_column_is_blamed_on_its_module(llama, tmp_path):
    """One input of one down_proj, among fourteen modules that all have noise."""
    checkpoint = noised(llama)
    name = "model.layers.1.mlp.down_proj"
    worst = weight(llama, name).norm(dim=0).argmax()
    weight(checkpoint, name)[:, worst] = 0
    found = blamed(llama, checkpoint, tmp_path)
    assert len(found.modules) == 14
    assert found.culprits() == [name]
    assert found.culprit_layers() == [1]
    assert found.shares[name] > 0.5
    assert 0.8 < found.additivity < 1.25


def test_scales_of_one_layer_are_blamed_on_that_layer(llama, tmp_path):
    """All seven modules 5 % too large."""
    checkpoint = noised(llama)
    for name in [
        n for n, _ in llama.named_modules() if n.startswith("model.layers.0.") and n.endswith("proj")
    ]:
        weight(checkpoint, name).mul_(1.05)
    found = blamed(llama, checkpoint, tmp_path)
    assert found.culprit_layers() == [0]
    assert found.layer_shares[0] > 0.9
    assert 0.8 < found.layer_additivity < 1.25


@pytest.mark.parametrize("stacked", [True, False], ids=["one tensor of all experts", "a module for each"])
def test_one_expert_is_blamed_by_itself(tmp_path, monkeypatch, stacked):
    """Also where all experts of a layer share one tensor."""
    monkeypatch.setitem(FAMILIES, "qwen3_moe", MOE)
    model = random_model("qwen3_moe")
    for experts in (layer.mlp.experts for layer in model.model.layers):
        experts.gate_up_proj.data *= 10
        experts.down_proj.data *= 10
    checkpoint = copy.deepcopy(model)
    for name, module in checkpoint.named_modules():
        if name.endswith("experts"):
            module.down_proj.data *= 1.001
    checkpoint.model.layers[1].mlp.experts.down_proj.data[2] = 0
    if not stacked:
        for one in (model, checkpoint):
            for layer in one.model.layers:
                layer.mlp.experts = Separate(layer.mlp.experts)
    found = blamed(model, checkpoint, tmp_path)
    assert found.culprits()[0].startswith("model.layers.1.mlp.experts.2")
    assert len(found.modules) == 8
    assert 0.5 < found.additivity < 2


class Separate(torch.nn.ModuleList):
    """Experts with a module each, as other versions and quantizers have them."""

    def __init__(self, stacked):
        super().__init__()
        for gate_up, down in zip(stacked.gate_up_proj.data, stacked.down_proj.data, strict=True):
            expert = torch.nn.Module()
            expert.gate_up_proj, expert.down_proj = (
                torch.nn.Linear(*w.shape[::-1], bias=False) for w in (gate_up, down)
            )
            expert.gate_up_proj.weight.data, expert.down_proj.weight.data = gate_up.clone(), down.clone()
            self.append(expert)

    def forward(self, states, index, weights):
        output = torch.zeros_like(states)
        for number, expert in enumerate(self):
            token, place = (index == number).nonzero(as_tuple=True)
            gate, up = expert.gate_up_proj(states[token]).chunk(2, dim=-1)
            output[token] += weights[token, place, None] * expert.down_proj(
                torch.nn.functional.silu(gate) * up
            )
        return output


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_alone_and_all_together_in_every_family(tmp_path, family):
    """All parts swapped at once are the checkpoint: its divergence, from kept states as from the beginning."""
    model, other = random_model(family), random_model(family, seed=1)
    for one in (model, other):
        one.get_output_embeddings().weight.data *= 20
    checkpoint = copy.deepcopy(model)
    changed = {}
    theirs = dict(other.named_parameters())
    for name, tensor in checkpoint.named_parameters():
        tensor.data = 0.9 * tensor.data + 0.1 * theirs[name].data
        changed[name.rpartition(".")[0]] = None
    models = measured(model, checkpoint, tmp_path)
    parts = differing_parts(model, checkpoint)
    chosen = [Chosen(n, window) for n, window in enumerate(SIDE_BY_SIDE)]
    replay = Replay(model, models.scorer, models.reference_trace, chosen)
    total = sum(models.trace.windows(0).kld) / sum(models.trace.windows(0).tokens)
    assert replay.divergence(*parts) == pytest.approx(total, rel=1e-3)
    last = [part for part in parts if part.start == 1]
    assert replay.divergence(*last) > 0
    from_start = [part._replace(start=0) for part in last]
    assert replay.divergence(*from_start) == pytest.approx(replay.divergence(*last), rel=1e-3)


def test_nothing_swapped_is_nothing_and_the_model_is_left_as_it_was(llama, tmp_path):
    """Bit for bit, with no hook, no forward and no module of the checkpoint in it, also after a fault."""
    checkpoint = noised(llama)
    weight(checkpoint, "model.norm").mul_(1.1)
    models = measured(llama, checkpoint, tmp_path)
    before = llama(torch.tensor([TOKENS[:32]])).logits
    modules = dict(llama.named_modules())
    head = models.scorer.head
    replay = Replay(llama, models.scorer, models.reference_trace, [Chosen(0, SIDE_BY_SIDE[0])])
    assert replay.divergence() == 0
    parts = differing_parts(llama, checkpoint)
    assert [part.name for part in parts][-1] == "model.norm"
    broken = parts[-1]._replace(swaps=(*parts[0].swaps, lambda: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        replay.divergence(broken)
    find_blame(models, SIDE_BY_SIDE)
    assert torch.equal(llama(torch.tensor([TOKENS[:32]])).logits, before)
    assert dict(llama.named_modules()) == modules
    assert models.scorer.head is head
    assert not any("forward" in vars(module) or module._forward_hooks for module in llama.modules())


def test_what_does_not_differ_is_not_blamed(llama, tmp_path):
    """And a checkpoint without any difference has no parts, and a note that says so."""
    checkpoint = copy.deepcopy(llama)
    found = blamed(llama, checkpoint, tmp_path / "same")
    assert found.modules == ()
    assert "differs" in found.note
    weight(checkpoint, "model.embed_tokens")[TOKENS[0]] += 1
    found = blamed(llama, checkpoint, tmp_path / "other")
    assert {module.name for module in found.modules} == {"model.embed_tokens", "lm_head"}


def test_blocks_are_swapped_whole_where_scales_move(llama, tmp_path):
    """Scales that went from a norm into its layers change nothing, and their block is not to blame."""
    checkpoint = copy.deepcopy(llama)
    weight(checkpoint, "model.layers.0.input_layernorm").mul_(2)
    for name in "qkv":
        weight(checkpoint, f"model.layers.0.self_attn.{name}_proj").div_(2)
    weight(checkpoint, "model.layers.1.mlp.up_proj").mul_(1.2)
    found = blamed(llama, checkpoint, tmp_path, whole_blocks=True)
    assert found.culprits() == ["model.layers.1.mlp"]
    assert {module.name for module in found.modules} == {"model.layers.0.self_attn", "model.layers.1.mlp"}
    assert found.shares["model.layers.0.self_attn"] < 1e-4
    assert "scales" in found.note


def test_a_small_budget_runs_layers_first_and_opens_the_worst(llama, tmp_path):
    """And still finds the module, on fewer tokens."""
    checkpoint = noised(llama, size=0.001)
    weight(checkpoint, "model.layers.1.mlp.up_proj").mul_(1.3)
    found = blamed(llama, checkpoint, tmp_path, budget=60)
    names = [module.name for module in found.modules]
    assert names[0] == "model.layers.1.mlp.up_proj"
    assert "model.layers.0" in names
    assert len(names) == 8
    assert found.tokens < blamed(llama, checkpoint, tmp_path).tokens
    assert "whole layers" in found.note


def test_the_windows_that_diverge_most_are_taken_and_again_the_same(llama, tmp_path):
    """So that the divergence of what is run is not below the mean of all."""
    models = measured(llama, noised(llama), tmp_path)
    found = find_blame(models, SIDE_BY_SIDE)
    assert 0 < found.tokens < sum(window.scored for window in SIDE_BY_SIDE)
    windows = models.trace.windows(0)
    assert found.total > sum(windows.kld) / windows.total_tokens
    assert find_blame(models, SIDE_BY_SIDE) == found


def test_other_modules_than_the_references_are_refused(llama):
    """By the name of what is missing."""
    checkpoint = copy.deepcopy(llama)
    del checkpoint.model.layers[1].mlp.up_proj
    with pytest.raises(MeasurementError, match=r"do not correspond") as caught:
        differing_parts(llama, checkpoint)
    assert "model.layers.1.mlp.up_proj" in str(caught.value)


def test_the_estimate_is_bounded_by_the_measurement_and_by_the_modules():
    """Whichever is less; without a number of modules by the measurement alone."""
    assert tokens_to_run(1000, 0) == 3000
    assert tokens_to_run(10**6, 210) < 10**6
    assert tokens_to_run(100, 210) == 300


def test_a_model_without_decoder_layers_in_a_list_is_refused():
    """There is nothing to start between."""
    model = torch.nn.Linear(2, 2)
    with pytest.raises(MeasurementError, match=r"decoder layers of this model are not known"):
        find_blame(Models(model, model, None, None, None), [])
