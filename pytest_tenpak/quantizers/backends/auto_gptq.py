"""GPTQ through AutoGPTQ 0.7.1, on CPU and CUDA, patched to work with today's libraries.

GPTQ: Frantar et al. (arXiv 2210.17323). AutoGPTQ is archived. It was written for CUDA and for
transformers 4; each comment below that begins with "Upstream:" says what goes wrong without the function.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ...errors import SpecError, UnavailableError
from ...models.decoder import decoder_layers, removed_after
from ...spec import QuantizeSpec
from ..base import Job
from ..calibration import draw_samples
from ..kernels import AUTO, Kernel
from ..layer_progress import follow
from ..loading import architecture_of, load_pretrained
from ..shapes import require_divisible, widths
from .archived import (
    adopt_generation,
    copy_generation,
    halve_scales,
    patched,
    patched_if_missing,
    restore_dtype,
)

NAME = "auto-gptq"

#: ``auto`` is ``torch`` on CPU, and AutoGPTQ's own choice on CUDA.
KERNELS = {
    "torch": Kernel((2, 3, 4, 8), ("cpu", "cuda"), ("float32", "float16", "bfloat16")),
    "exllama": Kernel((4,)),
    "exllamav2": Kernel((4,)),
    "triton": Kernel((2, 4, 8)),
}

#: Codes of 2, 3, 4 and 8 bits fill whole 32-bit words only in multiples of this.
_PACKED = 32


def quantize(job: Job) -> None:
    """Quantize every decoder layer's linear layers with GPTQ and save, weights in ``model.safetensors``.

    The same spec and the same number of threads give the same bytes. Raises SpecError, before any layer
    is changed, for an architecture or a group size that is not possible.
    """
    backend = _import()
    options = job.spec.options
    architecture = architecture_of(job.model, backend.modeling._const.SUPPORTED_MODELS, NAME)
    kind = backend.modeling.auto.GPTQ_CAUSAL_LM_MODEL_MAP[architecture]
    # Error feedback needs precision; AutoGPTQ itself works in float16 on CUDA.
    model = load_pretrained(job.model, job.device, "float32" if job.device == "cpu" else "float16")
    # AutoGPTQ mistakes the device map that transformers sets for a request to offload.
    vars(model).pop("hf_device_map", None)
    _require_keywords(model, architecture)
    _require_widths(model, kind, options["group_size"])
    recipe = backend.BaseQuantizeConfig(
        bits=options["bits"],
        group_size=options["group_size"],
        sym=options["sym"],
        desc_act=options["desc_act"],
        damp_percent=options["damp_percent"],
        # The name under which transformers looks for weights; AutoGPTQ's own has bits and group in it.
        model_file_base_name="model",
    )
    adapter = kind(model, False, recipe)
    samples = draw_samples(job)
    examples = [{"input_ids": sample, "attention_mask": [1] * len(sample)} for sample in samples]
    with ExitStack() as patches:
        if job.device == "cpu":
            patches.enter_context(_cpu_for_cuda(backend))
            patches.enter_context(_nothing_to_synchronize())
        patches.enter_context(_layers_return_tuples(model))
        patches.enter_context(follow(model, job.progress))
        adapter.quantize(examples, batch_size=1)
    _save(adapter, job)


def load(spec: QuantizeSpec, checkpoint: Path, device: str, dtype: str) -> Any:
    """Load the checkpoint as transformers' own model with AutoGPTQ's layers, in evaluation mode."""
    import torch

    backend = _import()
    kernel = spec.options.get("kernel", AUTO)
    # Its own choice on CUDA computes in float16, whatever was requested.
    kernel = "torch" if kernel == AUTO and (device == "cpu" or dtype != "float16") else kernel
    with _init_functions_restored():
        adapter = backend.AutoGPTQForCausalLM.from_quantized(
            str(checkpoint),
            device=device,
            torch_dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **_switches(backend, kernel),
        )
    model = adapter.model
    if kernel == "torch":
        for layer in model.modules():
            if hasattr(layer, "autogptq_cuda_available"):
                layer.autogptq_cuda_available = False
    adopt_generation(model, checkpoint)
    return model.eval()


def _switches(backend: Any, kernel: str) -> dict[str, bool]:
    """Return the arguments of from_quantized that select a kernel.

    Raises UnavailableError for one that is not built: AutoGPTQ would log a line and use another.
    """
    built = backend.utils.import_utils
    present = {
        "exllama": built.EXLLAMA_KERNELS_AVAILABLE,
        "exllamav2": built.EXLLAMAV2_KERNELS_AVAILABLE,
        "triton": built.TRITON_AVAILABLE,
    }
    if not present.get(kernel, True):
        raise UnavailableError(
            f"this AutoGPTQ has no kernel {kernel!r}: its extension is missing or built for another torch",
            given=f"kernel={kernel!r}",
            accepted=", ".join([AUTO, "torch", *(name for name, there in present.items() if there)]),
            remedy="build AutoGPTQ from source with this torch installed, or choose another kernel",
        )
    if kernel == AUTO:
        return {}
    return {
        "use_triton": kernel == "triton",
        "disable_exllama": kernel != "exllama",
        "disable_exllamav2": kernel != "exllamav2",
    }


def _require_keywords(model: Any, architecture: str) -> None:
    """Refuse a model whose layers are called in a way that AutoGPTQ does not support, such as GPT-2."""
    # Upstream: "LayerHijacker.forward() takes from 1 to 2 positional arguments but 5 were given".
    import torch

    calls = []

    def watch(_layer: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.append(len(given) <= 1 and "attention_mask" in named)

    hook = decoder_layers(model)[0].register_forward_pre_hook(watch, with_kwargs=True)
    with torch.inference_mode():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    hook.remove()
    if not all(calls):
        raise SpecError(
            f"backend {NAME!r} does not support how this transformers calls the layers of {architecture!r}",
            given=f"model_type {architecture!r}",
            accepted="models that pass their layers everything but the hidden states by keyword",
            remedy="use another backend; this one is archived",
        )


def _require_widths(model: Any, kind: Any, group_size: int) -> None:
    """Refuse layers that AutoGPTQ would quantize without a warning and then fail to multiply or to pack."""
    named = dict(decoder_layers(model).named_modules())
    for names in kind.inside_layer_modules:
        if not any(name.endswith("." + inside) for name in named for inside in names):
            raise SpecError(
                f"backend {NAME!r} does not find layers that it should quantize, and would skip them",
                given=", ".join(names),
                accepted="models whose layers have the same names as in transformers 4",
                remedy="use another backend; this one is archived",
            )
    suffixes = tuple("." + name for names in kind.inside_layer_modules for name in names)
    shapes = {name: widths(layer) for name, layer in named.items() if name.endswith(suffixes)}
    names = {name: f"layer {name}" for name in shapes}
    inputs = {names[name]: shape[0] for name, shape in shapes.items()}
    outputs = {names[name]: shape[1] for name, shape in shapes.items()}
    if group_size != -1:
        require_divisible(inputs, group_size, "choose a group_size that divides it, or -1 for whole rows")
    packed = f"use another backend; {NAME} packs codes by {_PACKED}"
    require_divisible(inputs, _PACKED, packed)
    require_divisible(outputs, _PACKED, packed, side="output")


def _save(adapter: Any, job: Job) -> None:
    """Save the checkpoint as AutoGPTQ's and transformers' loaders both read it."""
    model = adapter.model
    # float16 is the type of AutoGPTQ's scales when it quantizes in its own type.
    halve_scales(model)
    restore_dtype(model, job.model)
    # Upstream: a tied output head is stored a second time (57 MB of SmolLM2's file). It has to be: AutoGPTQ
    # loads through accelerate, which ties everything to the head again, and a head that is not in the file
    # is uninitialized memory. The file is what AutoGPTQ's users ship, so it stays, and the ledger counts it.
    adapter.save_quantized(str(job.out), use_safetensors=True)
    copy_generation(job.model, job.out)


def _import() -> Any:
    """Import AutoGPTQ together with newer libraries than it was written for."""
    with _moved_names(), _peft_mapping():
        import auto_gptq
        import auto_gptq.modeling.auto

    return auto_gptq


@contextmanager
def _moved_names() -> Iterator[None]:
    """Provide names of transformers 4 where AutoGPTQ looks for them, while it is imported."""
    # Upstream: "cannot import name 'no_init_weights' from 'transformers.modeling_utils'", and then
    # 'create_commit', 'create_repo' from 'transformers.utils.hub'.
    import huggingface_hub
    import transformers.modeling_utils as modeling
    import transformers.utils.hub as hub

    with ExitStack() as stack:
        if not hasattr(modeling, "no_init_weights"):
            from transformers.initialization import no_init_weights

            stack.enter_context(patched(modeling, no_init_weights=no_init_weights))
        names = ("CommitOperationAdd", "create_commit", "create_repo")
        stack.enter_context(
            patched_if_missing(hub, **{name: getattr(huggingface_hub, name) for name in names})
        )
        yield


@contextmanager
def _peft_mapping() -> Iterator[None]:
    """Provide the table of peft in which AutoGPTQ registers its own adapters, while it is imported."""
    # Upstream: "cannot import name 'PEFT_TYPE_TO_MODEL_MAPPING' from 'peft.peft_model'".
    import peft.peft_model

    with patched_if_missing(peft.peft_model, PEFT_TYPE_TO_MODEL_MAPPING={}):
        yield


@contextmanager
def _cpu_for_cuda(backend: Any) -> Iterator[None]:
    """Replace the first GPU by the CPU in AutoGPTQ."""
    # Upstream: it moves every layer on the CPU to cuda:0, "Torch not compiled with CUDA enabled".
    base, parts = backend.modeling._base, backend.modeling._utils
    with patched(base, CUDA_0=base.CPU), patched(parts, CUDA_0=parts.CPU):
        yield


@contextmanager
def _nothing_to_synchronize() -> Iterator[None]:
    """Make torch.cuda.synchronize return without a GPU."""
    # Upstream: called after every layer, with or without a GPU: "Torch not compiled with CUDA enabled".
    import torch

    with patched(torch.cuda, synchronize=lambda *_: None):
        yield


@contextmanager
def _layers_return_tuples(model: Any) -> Iterator[None]:
    """Make decoder layers return tuples, as they did before transformers 4.54."""
    # Upstream: it uses layer(...)[0], which for a tensor is the first sample without its batch dimension;
    # the next layer then fails, or worse, does not.
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, out: out if isinstance(out, tuple) else (out,))
        for layer in decoder_layers(model)
    ]
    with removed_after(hooks):
        yield


@contextmanager
def _init_functions_restored() -> Iterator[None]:
    """Restore the functions of torch.nn.init after the context."""
    # Upstream: from_quantized leaves three of these functions as no-ops, and every model that the process
    # builds afterwards has uninitialized memory for weights.
    import torch
    import transformers.modeling_utils as modeling

    names = ("kaiming_uniform_", "uniform_", "normal_")
    flag = {"_init_weights": getattr(modeling, "_init_weights", True)}
    with (
        patched(torch.nn.init, **{name: getattr(torch.nn.init, name) for name in names}),
        patched(modeling, **flag),
    ):
        yield
