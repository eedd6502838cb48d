"""AutoGPTQ for real, in the interpreter that has it; and each mend of it, with and without.

A test that fails because a symptom is gone says that upstream, or something beside it, mended it: the
shim can then go.
"""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PRELUDE = """
from contextlib import nullcontext
from pytest_tenpak.quantizers.backends import auto_gptq
from pytest_tenpak.quantizers.normalize import normalize_checkpoint
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("auto-gptq")


@pytest.fixture(scope="module")
def quantized(archived_python, fluent, checkpoint):
    """What the quantizing process says: 3 bits, so that differences show."""
    return archived_python.run(f"""{PRELUDE}
steps = []
job = archived.job({str(fluent)!r}, {str(checkpoint)!r}, progress=lambda *step: steps.append(step), bits=3)
auto_gptq.quantize(job)
normalize_checkpoint(job.model, job.out)
loaded = auto_gptq.load(job.spec, job.out, "cpu", "float32")
archived.answer(
    steps=steps,
    digests=archived.digests(job.out),
    logits=archived.digest(archived.logits(loaded, {str(fluent)!r})),
)
""")


@pytest.fixture(scope="module")
def loaded(archived_python, fluent, checkpoint, quantized):
    """What a fresh process says that loads the checkpoint, and quantizes to another one."""
    return archived_python.run(f"""{PRELUDE}
import torch
model, out = {str(fluent)!r}, {str(checkpoint)!r}
job = archived.job(model, out, bits=3)
loaded = auto_gptq.load(job.spec, job.out, "cpu", "float32")
reference = archived.reference(model)
ids = archived.windows(model)[:1, :16]
again = archived.job(model, out + "-again", bits=3)
auto_gptq.quantize(again)
normalize_checkpoint(again.model, again.out)
figures = dict(
    logits=archived.digest(archived.logits(loaded, model)),
    perplexity=archived.perplexity(loaded, model),
    rounded=archived.perplexity(archived.round_to_nearest(model, 3, 128), model),
    reference=archived.perplexity(reference, model),
    kind=type(loaded).__name__,
    training=loaded.training,
    length=loaded.generate(input_ids=ids, max_new_tokens=4, do_sample=False).shape[1],
    head=loaded.get_output_embeddings().weight.shape[0],
    base=type(loaded.base_model).__name__,
    digests=archived.digests(again.out),
)
for options in (dict(desc_act=True), dict(sym=False, group_size=32), dict(bits=8), dict(group_size=-1)):
    other = archived.job(model, out + "-" + "-".join(options), **options)
    auto_gptq.quantize(other)
    kept = auto_gptq.load(other.spec, other.out, "cpu", "bfloat16" if "bits" in options else "float32")
    figures["-".join(options)] = archived.perplexity(kept, model)
archived.answer(**figures)
""")


def test_a_fresh_process_gives_the_logits_of_the_one_that_quantized(quantized, loaded):
    """Save and load lose nothing: equal to the last bit."""
    assert loaded["logits"] == quantized["logits"]


def test_what_is_loaded_is_a_plain_model(loaded):
    """transformers' own class, in evaluation mode, that generates: AutoGPTQ's wrapper is gone."""
    assert loaded["kind"] == "LlamaForCausalLM"
    assert loaded["base"] == "LlamaModel"
    assert not loaded["training"]
    assert loaded["length"] == 20
    assert loaded["head"] == 258


def test_it_is_near_the_reference_and_beats_rounding(loaded):
    """3 bits in groups of 128: within 1 % of the reference, and at most two thirds of what rounding loses."""
    lost, rounding = (loaded[name] / loaded["reference"] - 1 for name in ("perplexity", "rounded"))
    assert abs(lost) < 0.01
    assert rounding > 0.005, "rounding costs nothing: the model cannot tell a good quantizer"
    assert lost < rounding * 2 / 3


@pytest.mark.parametrize("options", ["desc_act", "sym-group_size", "bits", "group_size"])
def test_every_option_gives_a_model_near_the_reference(loaded, options):
    """Columns by activation, asymmetric groups of 32, 8 bits in bfloat16, one group a row: within 2 %."""
    assert abs(loaded[options] / loaded["reference"] - 1) < 0.02


def test_the_same_spec_gives_the_same_bytes(quantized, loaded):
    """In another process, into another folder: every file of the checkpoint."""
    assert loaded["digests"] == quantized["digests"]


def test_both_loaders_find_the_checkpoint(checkpoint, quantized):
    """AutoGPTQ reads quantize_config.json, transformers config.json; both find model.safetensors."""
    assert {"config.json", "quantize_config.json", "model.safetensors"} <= set(quantized["digests"])
    stored = json.loads((checkpoint / "config.json").read_text())["quantization_config"]
    own = json.loads((checkpoint / "quantize_config.json").read_text())
    assert stored == own
    assert (own["quant_method"], own["bits"], own["model_file_base_name"]) == ("gptq", 3, "model")


def test_progress_counts_layers(quantized):
    """From none to all, one at a time."""
    assert quantized["steps"] == [[done, 2, "layers"] for done in range(3)]


@pytest.fixture(scope="module")
def unmended(archived_python, fluent, tmp_path_factory):
    """What happens without each mend, one after another, and what is left behind with all of them."""
    folder = tmp_path_factory.mktemp("unmended")
    return archived_python.run(f"""{PRELUDE}
import sys
import peft.peft_model
import torch
import transformers.modeling_utils
import transformers.utils.hub
names = lambda: [
    hasattr(transformers.modeling_utils, "no_init_weights"),
    hasattr(transformers.utils.hub, "create_repo"),
    hasattr(peft.peft_model, "PEFT_TYPE_TO_MODEL_MAPPING"),
    torch.cuda.synchronize,
    torch.nn.init.normal_,
    getattr(transformers.modeling_utils, "_init_weights", None),
]

def without(name, attempt):
    mend = getattr(auto_gptq, name)
    setattr(auto_gptq, name, lambda *_: nullcontext())
    seen = archived.symptom(attempt)
    setattr(auto_gptq, name, mend)
    for module in [m for m in sys.modules if m.startswith("auto_gptq") and name in ("_moved_names", "_peft_mapping")]:
        del sys.modules[module]
    return seen

model, before = {str(fluent)!r}, names()
job = archived.job(model, {str(folder / "out")!r}, samples=2)
quantize = lambda: auto_gptq.quantize(job)
symptoms = {{name: without(name, auto_gptq._import) for name in ("_moved_names", "_peft_mapping")}}
for name in ("_cpu_for_cuda", "_nothing_to_synchronize", "_layers_return_tuples"):
    symptoms[name] = without(name, quantize)

def initialised():
    tensor = torch.zeros(8)
    torch.nn.init.normal_(tensor)
    return bool(tensor.any())

quantize()
loaded = auto_gptq.load(job.spec, job.out, "cpu", "float32")
left = [a == b for a, b in zip(before, names())]
good = initialised()
normal = torch.nn.init.normal_
without("_init_functions_restored", lambda: auto_gptq.load(job.spec, job.out, "cpu", "float32"))
bad = initialised()
torch.nn.init.normal_ = normal
archived.without_tensor(job.out, "lm_head.weight")
# What is not initialised is filled with NaN, rather than with what lay in memory, often a former head.
torch.use_deterministic_algorithms(True, warn_only=True)
headless = auto_gptq.load(job.spec, job.out, "cpu", "float32")
archived.answer(
    symptoms=symptoms,
    left=left,
    initialised=[good, bad],
    perplexity=archived.perplexity(loaded, model),
    headless=repr(archived.perplexity(headless, model)),
    mended=str(sys.modules["auto_gptq"].modeling._base.CUDA_0),
)
""")


@pytest.mark.parametrize(
    ("mend", "expected"),
    [
        ("_moved_names", "cannot import name 'no_init_weights'"),
        ("_peft_mapping", "cannot import name 'PEFT_TYPE_TO_MODEL_MAPPING'"),
        ("_cpu_for_cuda", "Torch not compiled with CUDA enabled"),
        ("_nothing_to_synchronize", "Torch not compiled with CUDA enabled"),
        ("_layers_return_tuples", "Error"),
    ],
)
def test_each_mend_is_needed(unmended, mend, expected):
    """Without it, quantizing or importing fails as its comment says."""
    assert expected in unmended["symptoms"][mend], f"AutoGPTQ works without {mend}: the shim can go"


def test_init_functions_are_kept(unmended):
    """After loading, torch.nn.init still initialises; without the mend it does nothing."""
    with_mend, without = unmended["initialised"]
    assert with_mend
    assert not without, "AutoGPTQ leaves torch.nn.init alone: the shim can go"


def test_the_second_copy_of_a_tied_head_is_needed(unmended):
    """AutoGPTQ's loader cannot do without it, which is why it stays in the file."""
    perplexity = float(unmended["headless"])
    assert not perplexity < 10 * unmended["perplexity"], "the copy can be left out of the file"


def test_everything_lent_is_taken_back(unmended):
    """Names, torch.cuda, torch.nn.init and the device constants are what they were."""
    assert all(unmended["left"])
    assert unmended["mended"] == "cuda:0"


@pytest.fixture(scope="module")
def refused(archived_python, fluent, tmp_path_factory):
    """What is refused, and whether anything was written."""
    folder = tmp_path_factory.mktemp("refused")
    return archived_python.run(f"""{PRELUDE}
import tiny
from pathlib import Path
folder, seen = Path({str(folder)!r}), {{}}
narrow = dict(hidden_size=48, intermediate_size=96, num_key_value_heads=4)
models = {{
    "gemma2": tiny.random_model("gemma2"),
    "gpt2": tiny.random_model("gpt2"),
    "narrow": tiny.random_model("llama", **narrow),
}}
for name, model in models.items():
    tiny.save(model, folder / name)
    job = archived.job(folder / name, folder / "out", group_size=16)
    seen[name] = archived.symptom(lambda: auto_gptq.quantize(job))
job = archived.job({str(fluent)!r}, folder / "out", group_size=96)
seen["group"] = archived.symptom(lambda: auto_gptq.quantize(job))
backend = auto_gptq._import()
built = backend.utils.import_utils.EXLLAMAV2_KERNELS_AVAILABLE
if not built:
    seen["unbuilt"] = archived.symptom(lambda: auto_gptq._switches(backend, "exllamav2"))
archived.answer(seen=seen, written=[path.name for path in (folder / "out").iterdir()])
""")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("gemma2", ["SpecError", "'gemma2'", "llama", "qwen2"]),
        ("gpt2", ["SpecError", "'gpt2'", "by keyword"]),
        ("narrow", ["SpecError", "self_attn.q_proj", "input width 48"]),
        ("group", ["SpecError", "96 does not divide", "input width 128", "self_attn.q_proj", "group_size"]),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(refused, case, words):
    """Named are the architecture, or the layer and its width; nothing is written."""
    for word in words:
        assert word in refused["seen"][case]
    assert refused["written"] == []


def test_a_kernel_that_is_not_built_is_named(refused):
    """AutoGPTQ would log a line and take another."""
    if "unbuilt" not in refused["seen"]:
        pytest.skip("this AutoGPTQ has its extension")
    assert "UnavailableError" in refused["seen"]["unbuilt"]
    assert "exllamav2" in refused["seen"]["unbuilt"]
