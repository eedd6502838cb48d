"""AutoAWQ for real, in the interpreter that has it; and each mend of it, with and without.

A test that fails because a symptom is gone says that upstream, or something beside it, mended it: the
shim can then go.
"""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PRELUDE = """
from contextlib import nullcontext
from pytest_tenpak.quantizers.backends import autoawq
from pytest_tenpak.quantizers.normalize import normalize_checkpoint
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("autoawq")


@pytest.fixture(scope="module")
def quantized(archived_python, fluent, checkpoint):
    """What the quantizing process says, of which samples reached the model too."""
    return archived_python.run(f"""{PRELUDE}
from pytest_tenpak.quantizers.calibration import draw_samples
import transformers
steps, seen = [], []
job = archived.job({str(fluent)!r}, {str(checkpoint)!r}, progress=lambda *step: steps.append(step))
embed = transformers.models.llama.modeling_llama.LlamaModel.forward
def watch(self, input_ids=None, **named):
    seen.extend(input_ids.tolist())
    return embed(self, input_ids=input_ids, **named)
transformers.models.llama.modeling_llama.LlamaModel.forward = watch
autoawq.quantize(job)
normalize_checkpoint(job.model, job.out)
transformers.models.llama.modeling_llama.LlamaModel.forward = embed
loaded = autoawq.load(job.spec, job.out, "cpu", "float32")
archived.answer(
    steps=steps,
    all_samples=seen == draw_samples(job),
    digests=archived.digests(job.out),
    logits=archived.digest(archived.logits(loaded, {str(fluent)!r})),
)
""")


@pytest.fixture(scope="module")
def loaded(archived_python, fluent, checkpoint, quantized):
    """What a fresh process says that loads the checkpoint, and quantizes to other ones."""
    return archived_python.run(f"""{PRELUDE}
model, out = {str(fluent)!r}, {str(checkpoint)!r}
job = archived.job(model, out)
loaded = autoawq.load(job.spec, job.out, "cpu", "float32")
ids = archived.windows(model)[:1, :16]
again = archived.job(model, out + "-again")
autoawq.quantize(again)
normalize_checkpoint(again.model, again.out)
figures = dict(
    logits=archived.digest(archived.logits(loaded, model)),
    perplexity=archived.perplexity(loaded, model),
    rounded=archived.perplexity(archived.round_to_nearest(model, 4, 128), model),
    reference=archived.perplexity(archived.reference(model), model),
    kind=type(loaded).__name__,
    training=loaded.training,
    length=loaded.generate(input_ids=ids, max_new_tokens=4, do_sample=False).shape[1],
    head=loaded.get_output_embeddings().weight.shape[0],
    base=type(loaded.base_model).__name__,
    digests=archived.digests(again.out),
    bfloat16=archived.perplexity(autoawq.load(job.spec, job.out, "cpu", "bfloat16"), model),
)
clipped = archived.job(model, out + "-clip", clip=True, samples=4, group_size=64)
autoawq.quantize(clipped)
kept = autoawq.load(clipped.spec, clipped.out, "cpu", "float32")
archived.answer(clip=archived.perplexity(kept, model), **figures)
""")


def test_a_fresh_process_gives_the_logits_of_the_one_that_quantized(quantized, loaded):
    """Save and load lose nothing: equal to the last bit."""
    assert loaded["logits"] == quantized["logits"]


def test_what_is_loaded_is_a_plain_model(loaded):
    """transformers' own class, in evaluation mode, that generates: AutoAWQ's wrapper is gone."""
    assert loaded["kind"] == "LlamaForCausalLM"
    assert loaded["base"] == "LlamaModel"
    assert not loaded["training"]
    assert loaded["length"] == 20
    assert loaded["head"] == 258


def test_weights_are_not_corrupted(loaded, unmended):
    """With the mend within 2 % of the reference and at most 1 % behind rounding; without, ruined."""
    lost, rounding = (loaded[name] / loaded["reference"] - 1 for name in ("perplexity", "rounded"))
    ruined = unmended["corrupted"] / loaded["reference"] - 1
    assert abs(lost) < 0.02
    assert lost < rounding + 0.01
    assert ruined > 0.1, "AutoAWQ keeps real copies on CPU: the shim can go"
    assert ruined > 10 * max(lost, rounding)


@pytest.mark.parametrize("options", ["clip", "bfloat16"])
def test_other_options_give_a_model_near_the_reference(loaded, options):
    """Clipping searched, and the rest of the model in bfloat16: within 2 %."""
    assert abs(loaded[options] / loaded["reference"] - 1) < 0.02


def test_the_same_spec_gives_the_same_bytes(quantized, loaded):
    """In another process, into another folder: every file of the checkpoint."""
    assert loaded["digests"] == quantized["digests"]


def test_every_calibration_sample_is_used(quantized):
    """AutoAWQ joins and cuts the samples and drops long ones: what reaches the model is what was drawn."""
    assert quantized["all_samples"]


def test_the_checkpoint_is_what_transformers_reads(checkpoint, quantized, fluent):
    """config.json names the method; the model's own generation settings are untouched."""
    stored = json.loads((checkpoint / "config.json").read_text())["quantization_config"]
    assert (stored["quant_method"], stored["bits"], stored["group_size"]) == ("awq", 4, 128)
    assert "model.safetensors" in quantized["digests"]
    name = "generation_config.json"
    assert (checkpoint / name).read_bytes() == (fluent / name).read_bytes()


def test_progress_counts_layers(quantized):
    """From none to all, one at a time."""
    assert quantized["steps"] == [[done, 2, "layers"] for done in range(3)]


@pytest.fixture(scope="module")
def unmended(archived_python, fluent, tmp_path_factory):
    """What happens without each mend, one after another, and what is left behind with all of them."""
    folder = tmp_path_factory.mktemp("unmended")
    return archived_python.run(f"""{PRELUDE}
import sys
import tiny
import torch
import transformers.activations as activations
from pathlib import Path

def without(name, stand_in, attempt):
    mend = getattr(autoawq, name)
    setattr(autoawq, name, stand_in)
    seen = archived.symptom(attempt)
    setattr(autoawq, name, mend)
    return seen

model, folder = {str(fluent)!r}, Path({str(folder)!r})
symptoms = {{}}
# transformers took the old name back; the versions between have only the new one.
if hasattr(activations, "PytorchGELUTanh"):
    del activations.PytorchGELUTanh
symptoms["_moved_names"] = without("_moved_names", nullcontext, autoawq._import)
for module in [name for name in sys.modules if name.split(".")[0] == "awq"]:
    del sys.modules[module]
awq = autoawq._import()

job = archived.job(model, folder / "out")
without("_is_its_own_cpu_copy", lambda device: False, lambda: autoawq.quantize(job))
load = lambda: autoawq.load(job.spec, job.out, "cpu", "float32")
corrupted = archived.perplexity(load(), model)
left = [not hasattr(activations, "PytorchGELUTanh"), awq.models.base.get_best_device() == "cpu"]

symptoms["_no_ipex"] = without("_no_ipex", nullcontext, load)
score = lambda: archived.logits(load(), model)
symptoms["_halve_layers"] = without("_halve_layers", lambda model: None, score)
from awq.modules.linear import gemm
gemm.TRITON_AVAILABLE = hasattr(gemm, "awq_gemm_triton")
triton = gemm.TRITON_AVAILABLE
symptoms["_choose_product"] = without("_choose_product", lambda kernel: None, score)

opt = tiny.save(tiny.random_model("opt"), folder / "opt")
other = archived.job(opt, folder / "opt-out", group_size=32, samples=2)
symptoms["_without_rotation"] = without("_without_rotation", lambda base: base, lambda: autoawq.quantize(other))
autoawq.quantize(other)
archived.answer(symptoms=symptoms, corrupted=corrupted, left=left, triton=triton)
""")


@pytest.mark.parametrize(
    ("mend", "expected"),
    [
        ("_moved_names", "cannot import name 'PytorchGELUTanh'"),
        ("_no_ipex", "intel_extension_for_pytorch"),
        ("_halve_layers", "same dtype"),
        ("_choose_product", "Error"),
        ("_without_rotation", "rotary_emb"),
    ],
)
def test_each_mend_is_needed(unmended, mend, expected):
    """Without it, importing, quantizing, loading or the first forward pass fails as its comment says."""
    if mend == "_choose_product" and not unmended["triton"]:
        pytest.skip("Triton is not installed, so AutoAWQ does not take it")
    assert expected in unmended["symptoms"][mend], f"AutoAWQ works without {mend}: the shim can go"


def test_everything_lent_is_taken_back(unmended):
    """The activation's old name, and the device that AutoAWQ thinks best."""
    assert all(unmended["left"])


@pytest.fixture(scope="module")
def refused(archived_python, fluent, tmp_path_factory):
    """What is refused, and whether anything was written."""
    folder = tmp_path_factory.mktemp("refused")
    return archived_python.run(f"""{PRELUDE}
import tiny
from pathlib import Path
folder, seen = Path({str(folder)!r}), {{}}
for family in ("gpt2", "gemma3_text"):
    tiny.save(tiny.random_model(family), folder / family)
    job = archived.job(folder / family, folder / "out", group_size=32)
    seen[family] = archived.symptom(lambda: autoawq.quantize(job))
tiny.save(tiny.random_model("llama"), folder / "narrow")
job = archived.job(folder / "narrow", folder / "out", group_size=32, clip=True)
seen["narrow"] = archived.symptom(lambda: autoawq.quantize(job))
cases = {{
    "group": dict(group_size=96),
    "row": dict(group_size=-1),
    "version": dict(version="gemv"),
    "symmetric": dict(zero_point=False),
}}
for name, options in cases.items():
    job = archived.job({str(fluent)!r}, folder / "out", **options)
    seen[name] = archived.symptom(lambda: autoawq.quantize(job))
from awq.modules.linear import exllamav2
if exllamav2.exlv2_ext is None:
    seen["unbuilt"] = archived.symptom(lambda: autoawq._require_built("exllamav2"))
archived.answer(seen=seen, written=[path.name for path in (folder / "out").iterdir()])
""")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("gpt2", ["'gpt2'", "llama", "qwen2"]),
        ("gemma3_text", ["'gemma3_text'", "gemma2"]),
        ("narrow", ["self_attn.k_proj", "output width 32", "clip=False"]),
        ("group", ["96 does not divide", "input width 128", "self_attn.q_proj", "group_size"]),
        ("row", ["group_size=-1"]),
        ("version", ["'gemv'", "on cpu", "gemm"]),
        ("symmetric", ["zero_point=False"]),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(refused, case, words):
    """Named are the architecture, the layer and its width, or the option; nothing is written."""
    for word in ["SpecError", *words]:
        assert word in refused["seen"][case]
    assert refused["written"] == []


def test_a_kernel_that_is_not_built_is_named(refused):
    """AutoAWQ would fail with an assertion after the weights are loaded."""
    if "unbuilt" not in refused["seen"]:
        pytest.skip("this AutoAWQ has its extension")
    assert "UnavailableError" in refused["seen"]["unbuilt"]
    assert "exllamav2" in refused["seen"]["unbuilt"]
