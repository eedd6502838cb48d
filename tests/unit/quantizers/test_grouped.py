"""GPTQ and AWQ before any work: presets, groups, kernels, backends, calibration. Nothing is quantized here."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import byte_tokenizer, random_model

from pytest_tenpak.errors import CorpusError, SpecError, UnavailableError
from pytest_tenpak.models.model import Model
from pytest_tenpak.quantizers.base import Job
from pytest_tenpak.quantizers.calibration import draw_samples
from pytest_tenpak.quantizers.interpreters import Interpreters
from pytest_tenpak.quantizers.presets import PRESETS
from pytest_tenpak.quantizers.registry import Registry, loading_backend
from pytest_tenpak.quantizers.rounding import round_to_nearest
from pytest_tenpak.spec import QuantizeSpec


def spec_of(method: str, registry: Registry | None = None, **given) -> QuantizeSpec:
    quantizer, options = (registry or Registry()).expand(method, given)
    names = {option.name for option in quantizer.options}
    return QuantizeSpec.build(
        quantizer.method, quantizer.options, {k: v for k, v in options.items() if k in names}
    )


def check(method: str, device: str = "cpu", dtype: str = "float32", widths=(128, 256), **given) -> None:
    spec = spec_of(method, **given)
    model = SimpleNamespace(maximum=1024, widths={f"layer{n}": width for n, width in enumerate(widths)})
    Registry()[spec.method].check(spec, model, device, dtype)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_method_with_options_fixed(name):
    """TenPak's presets by name; what they leave open, the marker sets."""
    method, fixed = PRESETS[name]
    spec = spec_of(name)
    assert spec.method == method
    assert {key: spec.options[key] for key in fixed} == dict(fixed)


def test_a_preset_and_an_option_that_contradict_each_other():
    """Neither silently wins."""
    with pytest.raises(SpecError, match="'gptq-quality' and group_size=64 contradict"):
        spec_of("gptq-quality", group_size=64)
    assert spec_of("gptq-quality", group_size=128, bits=8).options["bits"] == 8


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_group_that_does_not_divide_a_width_is_refused_with_what_does(method):
    """SmolLM2 is 576 and 1536 wide: groups of 128 do not fit, and the error names those that do."""
    with pytest.raises(SpecError) as refusal:
        check(method, widths=(576, 1536), group_size=128)
    assert "group_size=128 does not divide" in str(refusal.value)
    assert "layer0 is 576 wide" in str(refusal.value)
    assert "group_size=16, group_size=32, group_size=64" in str(refusal.value)
    assert "no preset of this method divides these widths" in str(refusal.value)


def test_samples_longer_than_the_model_takes_are_refused():
    """A backend would run it beyond its positions, and learn from nonsense."""
    with pytest.raises(SpecError, match="sample_length=2048 exceeds the model's context"):
        check("awq", sample_length=2048)


def test_a_preset_that_does_not_divide_names_the_one_that_does():
    """1152 = 9 * 128: the balanced preset's groups of 256 do not fit, those of quality do."""
    with pytest.raises(SpecError, match="gptq-quality"):
        check("gptq-balanced", widths=(1152,), dtype="bfloat16")
    check("gptq-quality", widths=(1152,))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kernel": "marlin"}, "marlin runs on cuda, not on cpu"),
        ({"kernel": "torch"}, "torch computes in bfloat16, float16"),
        ({"kernel": "torch_fused", "bits": 8}, "torch_fused has 4 bits"),
        ({"bits": 3}, "torch computes in bfloat16, float16"),
        ({"bits": 3}, "set dtype='bfloat16' or dtype='float16' or backend='auto-gptq'"),
        # GPTQModel never chooses this kernel by itself, though it would fit.
        ({"bits": 8}, "or kernel='torch_int8' or"),
        ({"group_size": 128, "bits": 3}, "set dtype='bfloat16'"),
        ({"kernel": "exllama"}, "has no kernel 'exllama' for gptq"),
        (
            {"kernel": "marlin", "device": "cuda", "dtype": "float16", "sym": False},
            "marlin is symmetric only",
        ),
        ({"kernel": "torch_aten", "group_size": -1, "dtype": "float16"}, "torch_aten has groups of 16, 32"),
    ],
)
def test_what_a_kernel_does_not_compute_is_refused(given, said):
    """Before any work, with what each kernel does instead."""
    with pytest.raises(SpecError) as refusal:
        check("gptq", **{"group_size": 64, "backend": "gptqmodel", **given})
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"bits": 8, "kernel": "torch_int8"},
        {"bits": 3, "dtype": "bfloat16"},
        {"kernel": "marlin", "device": "cuda", "dtype": "float16"},
        {"backend": "auto-gptq", "bits": 3},
        {"group_size": -1},
    ],
)
def test_what_a_kernel_computes_is_let_through(given):
    """The same checks do not refuse what works."""
    check("gptq", **{"group_size": 64, "backend": "gptqmodel", **given})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backend": "gptqmodel", "version": "gemv"}, "read only version 'gemm'"),
        ({"backend": "autoawq", "version": "gemv"}, "cannot run version 'gemv' on cpu"),
        ({"backend": "autoawq", "zero_point": False}, "cannot store symmetric weights"),
        ({"backend": "autoawq", "group_size": -1}, "does not support groups of a whole row"),
        ({"backend": "gptqmodel", "group_size": 256, "dtype": "float16"}, "set backend='autoawq'"),
    ],
)
def test_what_awq_backends_do_not_do_is_refused(given, said):
    """Layouts, symmetry and groups, before the reference is measured; another backend is named if it would do."""
    with pytest.raises(SpecError) as refusal:
        check("awq", widths=(256,), **given)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("gptq", {"group_size": 0}),
        ("awq", {"group_size": 0}),
        ("gptq", {"group_size": -2}),
        ("gptq", {"damp_percent": 1}),
        ("gptq", {"bits": 5}),
        ("gptq", {"backend": "autoawq"}),
        ("awq", {"kernel": "triton2"}),
        ("awq", {"bits": 3}),
        ("gptq", {"samples": 0}),
    ],
)
def test_a_bad_value_is_refused_at_collection(method, given):
    """By the option itself, with what is accepted."""
    with pytest.raises(SpecError, match="is not accepted") as refusal:
        spec_of(method, **given)
    assert "accepted:" in str(refusal.value)


class Installed(Interpreters):
    """Interpreters in which only some distributions are there."""

    def __init__(self, *there):
        super().__init__({})
        self.there = there

    def versions(self, backend, *names):
        if f"broken {backend}" in self.there:
            raise UnavailableError("the interpreter does not exist")
        return {name: "1" for name in names if name in self.there}


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (("gptqmodel", "optimum", "auto-gptq"), "gptqmodel"),
        (("auto-gptq",), "auto-gptq"),
        (("gptqmodel", "auto-gptq"), "auto-gptq"),
        (("broken gptqmodel", "auto-gptq"), "auto-gptq"),
        ((), "gptqmodel"),
    ],
)
def test_the_backend_in_the_spec_is_the_first_that_is_whole(there, expected):
    """GPTQModel where it is with all it needs; else the archived one; none: the maintained one is missed."""
    registry = Registry(interpreters=Installed(*there))
    assert spec_of("gptq", registry).options["backend"] == expected
    assert spec_of("gptq", registry, backend="auto-gptq").options["backend"] == "auto-gptq"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> Path:
    """A folder with a tokenizer of bytes, which is all that samples are drawn with."""
    folder = tmp_path_factory.mktemp("vocabulary")
    random_model("llama").config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def job(model: Path, text: str, **options) -> Job:
    spec = QuantizeSpec("any", {"samples": 3, "sample_length": 32, "seed": 0, **options})
    return Job(spec, model, model, "cpu", "float32", [text], lambda *_: None)


def test_samples_are_drawn_by_a_generator_of_their_own(vocabulary):
    """The same options give the same samples whatever seeds the global ones; another seed gives others."""
    text = " ".join(map(str, range(1000)))
    torch.manual_seed(1)
    first = draw_samples(job(vocabulary, text))
    torch.manual_seed(2)
    assert draw_samples(job(vocabulary, text)) == first
    assert draw_samples(job(vocabulary, text, seed=1)) != first
    assert [len(sample) for sample in first] == [32] * 3
    assert len({tuple(sample) for sample in first}) == 3


def test_a_text_shorter_than_a_sample_is_refused(vocabulary):
    """With what it has and what it would take."""
    with pytest.raises(CorpusError, match="shorter than one sample") as refusal:
        draw_samples(job(vocabulary, "short"))
    assert "5 tokens" in str(refusal.value)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_widths_are_those_of_the_layers_whatever_way_they_are_stored(family, tmp_path):
    """Every linear layer of a decoder and no embedding: GPT-2 stores its inputs first."""
    model = random_model(family)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    widths = Model(tmp_path, "", "", config).widths
    expected = {
        name: module.weight.shape[0 if type(module).__name__ == "Conv1D" else 1]
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and name not in ("lm_head",)
    }
    assert sorted(widths.values()) == sorted(expected.values())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rounding_to_nearest_keeps_each_group_on_its_grid(family):
    """At most 2^bits - 1 steps between minus and plus the group's largest weight, none moved over half a step."""
    model, before = random_model(family), random_model(family)
    name = "model.layers.0.mlp.up_proj" if family == "llama" else "transformer.h.0.mlp.c_fc"
    assert round_to_nearest(model, [name, "no.such.layer"], bits=3, group_size=16) == 1
    new, old = (m.get_submodule(name).weight.detach() for m in (model, before))
    if family == "gpt2":
        new, old = new.T, old.T
    groups, originals = new.reshape(-1, 16), old.reshape(-1, 16)
    step = originals.abs().amax(1, keepdim=True) / 3
    assert torch.allclose((groups / step).round(), groups / step, atol=1e-4)
    assert ((groups - originals).abs() <= step / 2 + 1e-6).all()
    untouched = "model.layers.1.mlp.up_proj" if family == "llama" else "transformer.h.1.mlp.c_fc"
    assert torch.equal(model.get_submodule(untouched).weight, before.get_submodule(untouched).weight)


def test_a_library_missing_from_its_own_interpreter_is_to_be_installed_there(tmp_path):
    """The pip line is that interpreter's, not this one's."""
    backend = Registry()["gptq"].backends[1]
    with pytest.raises(UnavailableError, match="needs auto-gptq, which is not installed") as here:
        backend.require("gptq", {"python": "3.11"})
    assert "pip install 'pytest-tenpak[auto-gptq]'" in str(here.value)
    with pytest.raises(UnavailableError) as there:
        backend.require("gptq", {"python": "3.11"}, tmp_path / "python")
    assert f"not found in {tmp_path}/python" in str(there.value)
    assert f"{tmp_path}/python -m pip install auto-gptq" in str(there.value)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "gptqmodel"),
        ({"quantization_config": {"quant_method": "awq"}}, "gptqmodel"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "other"}}, None),
        ({"quantization_config": []}, None),
        ({}, None),
    ],
)
def test_a_checkpoint_made_elsewhere_names_the_library_that_loads_it(config, expected, tmp_path):
    """Its version is then part of cache key and provenance, and its absence is said before any work."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    backend = loading_backend(tmp_path)
    assert (backend.name if backend else None) == expected
