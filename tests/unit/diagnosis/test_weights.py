"""The weights of a checkpoint beside the model's: what is kept, what is quantized, what was moved."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_tenpak.diagnosis.weights import audit_weights
from pytest_tenpak.metrics.audit import CLIPPED, COMPENSATED, NEAREST, WeightAudit

WIDTH, INNER, WORDS = 64, 96, 40
CONFIG = {
    "model_type": "llama",
    "hidden_size": WIDTH,
    "num_attention_heads": 4,
    "head_dim": 16,
    "num_key_value_heads": 2,
}
LAYER = "model.layers.0.mlp.down_proj"


def random(*shape):
    """Numbers around zero, the same in every run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def saved(folder, tensors, **config):
    """A directory with these tensors."""
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


@pytest.fixture
def tensors():
    """A block of a Llama with grouped queries, and embeddings that are tied."""
    block = "model.layers.0"
    return {
        "model.embed_tokens.weight": random(WORDS, WIDTH),
        f"{block}.input_layernorm.weight": 1 + 0.1 * random(WIDTH),
        f"{block}.self_attn.q_proj.weight": random(WIDTH, WIDTH),
        f"{block}.self_attn.k_proj.weight": random(32, WIDTH),
        f"{block}.self_attn.v_proj.weight": random(32, WIDTH) + 0.1,
        f"{block}.self_attn.o_proj.weight": random(WIDTH, WIDTH) - 0.1,
        f"{block}.post_attention_layernorm.weight": 1 + 0.1 * random(WIDTH) ** 2,
        f"{block}.mlp.gate_proj.weight": random(INNER, WIDTH),
        f"{block}.mlp.up_proj.weight": random(INNER, WIDTH) + 0.2,
        f"{LAYER}.weight": random(WIDTH, INNER),
    }


@pytest.fixture
def model(tmp_path, tensors):
    """The model's directory."""
    return saved(tmp_path / "model", {name: tensor.half() for name, tensor in tensors.items()})


def int8(weight):
    """A layer as LLM.int8() stores it."""
    largest = weight.abs().amax(1)
    return {"weight": (weight * 127 / largest[:, None]).round().to(torch.int8), "SCB": largest}


def quantized(tensors, **changed):
    """All layers in 8 bits; ``changed`` replaces parts of the last one."""
    found = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if module.endswith("_proj"):
            parts = int8(tensor.half().float())
            parts |= changed if module == LAYER else {}
            found |= {f"{module}.{part}": value for part, value in parts.items()}
        else:
            found[name] = tensor.half()
    return found


def audit_of(tmp_path, model, tensors, **options):
    """The audit of a checkpoint with these tensors, sent through JSON."""
    found = audit_weights(saved(tmp_path / "checkpoint", tensors), model, **options)
    return WeightAudit.from_dict(json.loads(json.dumps(found.to_dict())))


def layer_named(audit, name=LAYER):
    """The figures of one layer."""
    return next(layer for layer in audit.layers if layer.name == name)


def test_a_healthy_checkpoint_is_rounded_to_nearest(tmp_path, model, tensors):
    """Every quantized layer has the error and the gain of rounding, every other tensor is the model's."""
    audit = audit_of(tmp_path, model, quantized(tensors))
    assert (len(audit.layers), audit.kept, audit.changed, audit.rounded) == (7, 3, (), ())
    for layer in audit.layers:
        assert layer.rounding == NEAREST
        assert layer.error == pytest.approx(layer.rounded_error, rel=1e-4)
        assert layer.gain == pytest.approx(layer.rounded_gain, abs=1e-5)
        assert layer.offset < layer.error / 4
        assert not layer.dead


def test_figures_are_those_of_the_whole_matrices(tmp_path, model, tensors):
    """Error, gain, offset and worst output, as their formulas say."""
    parts = int8(random(WIDTH, INNER))
    layer = layer_named(audit_of(tmp_path, model, quantized(tensors, **parts)))
    ours = (parts["weight"] * parts["SCB"][:, None] / 127).double().numpy()
    wanted = tensors[f"{LAYER}.weight"].half().double().numpy()
    off = ours - wanted
    size = np.linalg.norm(wanted)
    assert layer.error == pytest.approx(np.linalg.norm(off) / size, rel=1e-5)
    assert layer.gain == pytest.approx((ours * wanted).sum() / size**2, rel=1e-5)
    assert layer.offset == pytest.approx(np.sqrt((off.sum(1) ** 2).sum() / INNER) / size, rel=1e-4, abs=1e-7)
    by_output = np.linalg.norm(off, axis=1) / np.linalg.norm(wanted, axis=1)
    assert layer.output_error == pytest.approx(by_output[layer.worst_output], rel=1e-4)


def test_scales_that_are_too_large_are_seen_in_the_gain(tmp_path, model, tensors):
    """One per cent of scale is one per cent of gain, whatever the error of rounding."""
    scales = int8(tensors[f"{LAYER}.weight"].half().float())["SCB"]
    layer = layer_named(audit_of(tmp_path, model, quantized(tensors, SCB=scales * 1.01)))
    assert layer.gain - layer.rounded_gain == pytest.approx(0.01, abs=1e-4)


def test_outputs_and_inputs_that_are_zero_are_named(tmp_path, model, tensors):
    """By their numbers; an output that is zero in the model too is not."""
    weight = tensors[f"{LAYER}.weight"].half().float()
    codes = int8(weight)["weight"].clone()
    codes[16:32] = 0
    codes[:, 5] = 0
    layer = layer_named(audit_of(tmp_path, model, quantized(tensors, weight=codes)))
    assert layer.dead == ("output 16 to 31", "input 5")
    assert layer.worst_output in range(16, 32)
    assert layer.output_error == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_what_is_kept_may_be_stored_in_another_type(tmp_path, model, tensors, dtype):
    """Rounded to a coarser type it is still the model's."""
    audit = audit_of(tmp_path, model, {name: tensor.half().to(dtype) for name, tensor in tensors.items()})
    assert (audit.kept, audit.changed, audit.rounded) == (10, (), ())


def test_what_went_through_16_bits_is_counted_in_32_bits_too(tmp_path, tensors):
    """Whichever of the two types of 16 bits it was."""
    model = saved(tmp_path / "model", tensors)
    for dtype in (torch.float16, torch.bfloat16):
        audit = audit_of(
            tmp_path, model, {name: tensor.to(dtype).float() for name, tensor in tensors.items()}
        )
        assert (len(audit.rounded), audit.changed) == (10, ())


def test_what_went_through_a_coarser_type_is_counted(tmp_path, model, tensors):
    """It is in the model's own type, with fewer digits: no fault, but said."""
    audit = audit_of(
        tmp_path, model, {name: tensor.half().bfloat16().half() for name, tensor in tensors.items()}
    )
    assert len(audit.rounded) == 10
    assert not audit.changed


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("model.embed_tokens.weight", lambda x: x.index_fill(0, torch.tensor([7]), 0), "in row 7"),
        ("model.layers.0.input_layernorm.weight", lambda x: x * 1.01, "64 of 64 weights"),
        ("model.layers.0.input_layernorm.weight", lambda x: x * 1.002, "of 64 weights"),
        ("model.layers.0.self_attn.q_proj.weight", lambda x: x * (1 + 0.01 * random(WIDTH, WIDTH)), "in row 0 to 63"),
        ("model.embed_tokens.weight", lambda x: x.index_put((torch.tensor(3), torch.tensor(4)), torch.tensor(1000.0)), "1 of 2,560 weights differ"),
        ("model.embed_tokens.weight", lambda x: x[:-1], "has the shape 39×64, the model's has 40×64"),
    ],
    ids=["a zeroed row", "a norm × 1.01", "a norm × 1.002", "1 % noise", "one weight of 1000", "another shape"],
)  # fmt: skip
def test_what_is_changed_is_named(tmp_path, model, tensors, name, change, words):
    """With what differs, and nothing else is."""
    changed = {**tensors, name: change(tensors[name])}
    audit = audit_of(tmp_path, model, {n: tensor.half() for n, tensor in changed.items()})
    assert [one.name for one in audit.changed] == [name]
    assert words in audit.changed[0].what
    assert audit.changed[0].error > 0


def test_an_error_is_that_of_the_whole_tensor(tmp_path, model, tensors, monkeypatch):
    """Though the parts that are equal are not looked at twice."""
    monkeypatch.setattr("pytest_tenpak.diagnosis.kept.CHUNK", 1 << 9)
    name = "model.embed_tokens.weight"
    changed = {n: tensor.half() for n, tensor in tensors.items()}
    wanted = changed[name].double()
    changed[name] = changed[name].index_fill(0, torch.tensor([7]), 0)
    (found,) = audit_of(tmp_path, model, changed).changed
    assert found.error == pytest.approx(float(wanted[7].norm() / wanted.norm()), rel=1e-5)


def test_a_method_may_change_what_it_says(tmp_path, model, tensors):
    """Patterns name the tensors; whatever else is changed is not excused."""
    changed = {name: 2 * tensor.half() for name, tensor in tensors.items()}
    audit = audit_of(tmp_path, model, changed, may_change=["*norm.weight", "model.embed_tokens.weight"])
    assert len(audit.allowed) == 3
    assert len(audit.changed) == 7


def test_a_head_that_was_tied_is_the_embeddings(tmp_path, model, tensors):
    """Stored once more it equals them, or it is named."""
    whole = {name: tensor.half() for name, tensor in tensors.items()}
    same = {**whole, "lm_head.weight": whole["model.embed_tokens.weight"].clone()}
    assert not audit_of(tmp_path, model, same).changed
    noised = {**same, "lm_head.weight": same["lm_head.weight"] + 0.1 * random(WORDS, WIDTH).half()}
    assert [one.name for one in audit_of(tmp_path, model, noised).changed] == ["lm_head.weight"]


def test_a_bias_that_is_added_is_zero(tmp_path, model, tensors):
    """Some libraries store one for every layer."""
    whole = quantized(tensors)
    assert not audit_of(tmp_path, model, {**whole, f"{LAYER}.bias": torch.zeros(WIDTH)}).changed
    audit = audit_of(tmp_path, model, {**whole, f"{LAYER}.bias": torch.ones(WIDTH)})
    assert [one.name for one in audit.changed] == [f"{LAYER}.bias"]


def test_weights_that_are_not_finite_are_no_healthy_figure(tmp_path, model, tensors):
    """NaN stays NaN, through JSON too."""
    scales = torch.full((WIDTH,), float("nan"))
    layer = layer_named(audit_of(tmp_path, model, quantized(tensors, SCB=scales)))
    assert np.isnan(layer.error)


def folded(tensors):
    """The tensors with scales moved as AWQ moves them: from norms and layers into those that follow."""
    block = "model.layers.0"
    found = {name: tensor.half().float() for name, tensor in tensors.items()}
    for norm, layers in (
        ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ):
        scales = 0.5 + random(WIDTH).abs()
        found[f"{block}.{norm}.weight"] = (found[f"{block}.{norm}.weight"] / scales).half().float()
        for layer in layers:
            found[f"{block}.{layer}.weight"] *= scales
    scales = 0.5 + random(INNER).abs()
    found[f"{block}.mlp.up_proj.weight"] /= scales[:, None]
    found[f"{LAYER}.weight"] *= scales
    heads = 0.5 + random(32).abs()
    found[f"{block}.self_attn.v_proj.weight"] /= heads[:, None]
    spread = heads.reshape(2, 1, 16).expand(2, 2, 16).reshape(-1)
    found[f"{block}.self_attn.o_proj.weight"] *= spread
    return found


def test_scales_that_were_moved_are_undone(tmp_path, model, tensors):
    """Through norms, from layer to layer, and over grouped queries; without it every layer is wrong."""
    checkpoint = quantized(folded(tensors))
    audit = audit_of(tmp_path, model, checkpoint, folds=True)
    assert len(audit.allowed) == 2
    assert not audit.changed
    for layer in audit.layers:
        assert layer.error == pytest.approx(layer.rounded_error, rel=0.15), layer.name
    blind = audit_of(tmp_path, model, checkpoint)
    assert all(layer.factor > 10 for layer in blind.layers)
    assert len(blind.changed) == 2


def test_scales_that_were_moved_inside_experts_are_undone(tmp_path, tensors):
    """From one layer of an expert to the next, as in any other block."""
    expert = "model.layers.0.mlp.experts.0"
    whole = {
        f"{expert}.up_proj.weight": random(INNER, WIDTH),
        f"{expert}.down_proj.weight": random(WIDTH, INNER),
    }
    model = saved(tmp_path / "model", {**tensors, **whole})
    scales = 0.5 + random(INNER).abs()
    moved = {
        f"{expert}.up_proj.weight": whole[f"{expert}.up_proj.weight"] / scales[:, None],
        f"{expert}.down_proj.weight": whole[f"{expert}.down_proj.weight"] * scales,
    }
    audit = audit_of(tmp_path, model, quantized({**tensors, **moved}), folds=True)
    for name in ("up_proj", "down_proj"):
        layer = layer_named(audit, f"{expert}.{name}")
        assert layer.error == pytest.approx(layer.rounded_error, rel=0.15), name


@pytest.mark.parametrize("broken", ["input_layernorm", "mlp.up_proj", "self_attn.o_proj"])
def test_scales_that_were_moved_on_one_side_only_are_seen(tmp_path, model, tensors, broken):
    """The products are what the forward pass forms: two per cent on one side show in them."""
    moved = folded(tensors)
    moved[f"model.layers.0.{broken}.weight"] *= 1.02
    audit = audit_of(tmp_path, model, quantized(moved), folds=True)
    off = [abs(layer.gain - layer.rounded_gain) for layer in audit.layers]
    assert max(off) == pytest.approx(0.02, abs=0.004)


def test_a_layer_of_an_unknown_format_is_named(tmp_path, model, tensors):
    """With what it is stored as; the others are compared."""
    checkpoint = quantized(tensors)
    del checkpoint[f"{LAYER}.weight"], checkpoint[f"{LAYER}.SCB"]
    checkpoint[f"{LAYER}.codebook"] = torch.zeros(4)
    audit = audit_of(tmp_path, model, checkpoint)
    assert audit.not_compared == {LAYER: "stored as codebook"}
    assert len(audit.layers) == 6


def test_memory_does_not_depend_on_the_size_of_the_model(tmp_path, model, tensors, monkeypatch):
    """Rows are compared a few at a time: the same figures as at once."""
    whole = audit_of(tmp_path, model, quantized(tensors))
    monkeypatch.setattr("pytest_tenpak.diagnosis.weights.CHUNK", 1 << 9)
    monkeypatch.setattr("pytest_tenpak.diagnosis.kept.CHUNK", 1 << 9)
    parts = audit_of(tmp_path, model, quantized(tensors))
    for one, other in zip(whole.layers, parts.layers, strict=True):
        assert one.error == pytest.approx(other.error, rel=1e-5)
        assert one.gain == pytest.approx(other.gain, rel=1e-5)
        assert one.worst_output == other.worst_output


def test_a_method_may_choose_other_codes_than_the_nearest(tmp_path, model, tensors):
    """It says so; the format alone would hold it to rounding."""
    audit = audit_of(tmp_path, model, quantized(tensors), compensates=True)
    assert {layer.rounding for layer in audit.layers} == {COMPENSATED}


def test_formats_know_how_their_codes_are_chosen(tmp_path, model, tensors):
    """AWQ clips before it rounds, so that its layers may be further away than the nearest."""
    checkpoint = {name: tensor.half() for name, tensor in tensors.items()}
    del checkpoint[f"{LAYER}.weight"]
    checkpoint |= {
        f"{LAYER}.qweight": torch.zeros(INNER, WIDTH // 8, dtype=torch.int32),
        f"{LAYER}.qzeros": torch.zeros(3, WIDTH // 8, dtype=torch.int32),
        f"{LAYER}.scales": torch.ones(3, WIDTH),
    }
    assert layer_named(audit_of(tmp_path, model, checkpoint)).rounding == CLIPPED
    assert load_file(model / "model.safetensors")  # the model's files are only read


def test_experts_of_other_names_are_named(tmp_path, tensors):
    """Where one side stores them together and the other one by one, they are left out, and that is said."""
    together = "model.layers.0.mlp.experts.up_proj"
    model = saved(tmp_path / "model", {**tensors, together: random(2, INNER, WIDTH)})
    apart = {f"model.layers.0.mlp.experts.{n}.up_proj.weight": random(INNER, WIDTH) for n in range(2)}
    audit = audit_of(tmp_path, model, {**tensors, **apart})
    assert audit.not_compared == {together: "stored under other names"}
    assert (audit.kept, audit.changed) == (10, ())


def test_an_audit_can_be_stopped(tmp_path, model, tensors):
    """What the progress display raises ends it; nobody waits for the rest of a large model."""
    seen = []

    def proceed(done, total, unit):
        seen.append((done, total, unit))
        if done == 2:
            raise KeyboardInterrupt

    checkpoint = saved(tmp_path / "checkpoint", quantized(tensors))
    with pytest.raises(KeyboardInterrupt):
        audit_weights(checkpoint, model, threads=1, progress=proceed)
    assert seen == [(1, 10, "tensors"), (2, 10, "tensors")]
