"""AWQ through AutoAWQ 0.2.9, on CPU and CUDA, patched to work with today's libraries.

AWQ: Lin et al. (arXiv 2306.00978). AutoAWQ is archived; its last release was tested with torch 2.6 and
transformers 4.51, and on CUDA. Each comment below that begins with "Upstream:" says what goes wrong without
the function. AutoAWQ's layers multiply in float16, whatever type the rest of the model has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ...errors import SpecError, UnavailableError
from ...models.decoder import decoder_layers
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
    set_dtype,
)

NAME = "autoawq"

#: ``auto`` is ``torch`` on CPU, and AutoAWQ's own choice on CUDA.
KERNELS = {
    "torch": Kernel((4,), ("cpu", "cuda"), ("float32", "float16", "bfloat16")),
    "triton": Kernel((4,), ("cuda",), ("float32", "float16", "bfloat16")),
    "exllama": Kernel((4,)),
    "exllamav2": Kernel((4,)),
}

#: Layouts of the packed weights, and the families of devices that can multiply them.
VERSIONS = {"gemm": ("cpu", "cuda"), "gemv": ("cuda",), "gemv_fast": ("cuda",)}

#: Codes in a packed word, and rows that the clipping search processes at once.
_PACKED, _CLIPPED = 8, 64


def quantize(job: Job) -> None:
    """Quantize every decoder layer's linear layers with AWQ and save, weights as safetensors.

    The same spec gives the same bytes. Raises SpecError, before any layer is changed, for an
    architecture, a version, a kernel or a group size that is not possible.
    """
    awq = _import()
    options = job.spec.options
    kinds = _language_models(awq)
    architecture = architecture_of(job.model, kinds, NAME)
    require_options(job.spec, job.device)
    model = load_pretrained(job.model, job.device, "float32" if job.device == "cpu" else "float16")
    # A key-value cache would be passed to every call of every layer, and grow.
    model.config.use_cache, use_cache = False, model.config.use_cache
    _require_widths(model, options, getattr(kinds[architecture], "modules_to_not_convert", None) or ())
    adapter = kinds[architecture](
        model, architecture, is_quantized=False, config=model.config, quant_config=None, processor=None
    )
    samples = draw_samples(job)
    with follow(model, job.progress):
        adapter.quantize(
            None,
            quant_config={
                "w_bit": options["bits"],
                "q_group_size": options["group_size"],
                "zero_point": options["zero_point"],
                "version": options["version"],
            },
            # AutoAWQ joins the samples and cuts them again at this length, which gives the same samples.
            calib_data=samples,
            max_calib_samples=len(samples),
            max_calib_seq_len=options["sample_length"],
            apply_clip=options["clip"],
            quantizer_cls=_quantizer(model, job.device),
        )
    model.config.use_cache = use_cache
    restore_dtype(model, job.model)
    adapter.save_quantized(str(job.out))
    copy_generation(job.model, job.out)


def load(spec: QuantizeSpec, checkpoint: Path, device: str, dtype: str) -> Any:
    """Load the checkpoint as transformers' own model with AutoAWQ's layers, in evaluation mode."""
    import torch

    awq = _import()
    require_options(spec, device)
    kernel = spec.options.get("kernel", AUTO)
    kernel = "torch" if kernel == AUTO and device == "cpu" else kernel
    _require_built(kernel)
    kinds = _language_models(awq)
    architecture = architecture_of(checkpoint, kinds, NAME)
    with ExitStack() as patches:
        if device == "cpu":
            patches.enter_context(_no_ipex())
        adapter = kinds[architecture].from_quantized(
            str(checkpoint),
            architecture,
            # The exact type: loading casts everything to it, the layers' scales included.
            torch_dtype=torch.float32,
            trust_remote_code=False,
            fuse_layers=False,
            use_exllama=kernel == "exllama",
            use_exllama_v2=kernel == "exllamav2",
            device_map={"": device},
        )
    model = adapter.model
    _choose_product(kernel)
    _halve_layers(model)
    set_dtype(model, getattr(torch, dtype))
    adopt_generation(model, checkpoint)
    return model.eval()


def _language_models(awq: Any) -> dict[str, Any]:
    """Return AutoAWQ's classes by model type, without those of images and sound."""
    loaders = awq.models.base.TRANSFORMERS_AUTO_MAPPING_DICT
    kinds = awq.models.auto.AWQ_CAUSAL_LM_MODEL_MAP
    return {name: kind for name, kind in kinds.items() if loaders.get(name) == "AutoModelForCausalLM"}


def require_options(spec: QuantizeSpec, device: str) -> None:
    """Refuse combinations of options that AutoAWQ would fail on, or change, only after minutes."""
    options = spec.options
    version, kernel = options["version"], options.get("kernel", AUTO)
    family = device.partition(":")[0]
    if family not in VERSIONS[version]:
        raise SpecError(
            f"backend {NAME!r} cannot run version {version!r} on {family}",
            given=f"version={version!r}",
            accepted=", ".join(name for name, families in VERSIONS.items() if family in families),
            remedy="choose another version, or run on CUDA",
        )
    if kernel != AUTO and version != "gemm":
        raise SpecError(
            f"version {version!r} of backend {NAME!r} has only its own kernel",
            given=f"kernel={kernel!r}",
            accepted=f"kernel={AUTO!r}",
            remedy="leave kernel out, or use version='gemm'",
        )
    if not options["zero_point"]:
        raise SpecError(
            f"backend {NAME!r} cannot store symmetric weights in version {version!r}",
            given="zero_point=False",
            accepted="zero_point=True",
            remedy="leave zero_point out, or use another backend",
        )
    if options["group_size"] < 1:
        raise SpecError(
            f"backend {NAME!r} does not support groups of a whole row",
            given=f"group_size={options['group_size']}",
            accepted="a number that divides every input width",
            remedy="choose a group_size such as 128 or 64",
        )


def _require_built(kernel: str) -> None:
    """Raise UnavailableError for a kernel whose extension is not installed."""
    from awq.modules.linear import exllama, exllamav2, gemm

    present = {
        "triton": hasattr(gemm, "awq_gemm_triton"),
        "exllama": exllama.exl_ext is not None,
        "exllamav2": exllamav2.exlv2_ext is not None,
    }
    if not present.get(kernel, True):
        raise UnavailableError(
            f"this AutoAWQ has no kernel {kernel!r}",
            given=f"kernel={kernel!r}",
            accepted=", ".join([AUTO, "torch", *(name for name, there in present.items() if there)]),
            remedy="pip install triton" if kernel == "triton" else "pip install autoawq-kernels",
        )


def _require_widths(model: Any, options: Any, skipped: Sequence[str]) -> None:
    """Refuse layers on which AutoAWQ would fail halfway, with an assertion."""
    from torch.nn import Linear

    layers = decoder_layers(model).named_modules()
    shapes = {
        f"layer {name}": widths(layer)
        for name, layer in layers
        if isinstance(layer, Linear) and not any(part in name for part in skipped)
    }
    inputs = {name: shape[0] for name, shape in shapes.items()}
    outputs = {name: shape[1] for name, shape in shapes.items()}
    require_divisible(inputs, options["group_size"], "choose a group_size that divides it")
    require_divisible(
        outputs, _PACKED, f"use another backend; {NAME} packs codes by {_PACKED}", side="output"
    )
    if options["clip"]:
        require_divisible(outputs, _CLIPPED, "use clip=False, or another backend", side="output")


def _import() -> Any:
    """Import AutoAWQ together with newer libraries than it was written for."""
    import warnings

    with _moved_names(), warnings.catch_warnings():
        # Its deprecation notice, which recommends other libraries; tenpak's documentation does so too.
        warnings.simplefilter("ignore", DeprecationWarning)
        import awq
        import awq.models.auto

    return awq


@contextmanager
def _moved_names() -> Iterator[None]:
    """Provide an activation under its old name, while AutoAWQ is imported."""
    # Upstream: "cannot import name 'PytorchGELUTanh' from 'transformers.activations'", with transformers
    # from 4.57 until the version that took the old name back for AutoAWQ's sake.
    import transformers.activations as activations

    with patched_if_missing(activations, PytorchGELUTanh=getattr(activations, "GELUTanh", None)):
        yield


def _quantizer(model: Any, device: str) -> Any:
    """Return the class that searches scales: AutoAWQ's own, fixed where this device or model needs it."""
    from awq.quantize.quantizer import AwqQuantizer

    quantizer = AwqQuantizer
    if _is_its_own_cpu_copy(device):
        quantizer = _with_copies(quantizer)
    if not hasattr(getattr(model, "model", None), "rotary_emb"):
        quantizer = _without_rotation(quantizer)
    return quantizer


def _is_its_own_cpu_copy(device: str) -> bool:
    """Return whether ``tensor.cpu()`` gives the tensor itself, as it does on CPU."""
    import torch

    tensor = torch.zeros(1, device=device)
    return bool(tensor.cpu().data_ptr() == tensor.data_ptr())


def _with_copies(base: Any) -> Any:
    """Return a quantizer whose search starts every trial from the original weights."""

    # Upstream: _compute_best_scale saves the state to restore as `v.cpu()`, which on CPU is the weight
    # itself, and then scales the weight in place. Every layer ends up multiplied by its first trial's
    # scales, without a warning: a perplexity of 15.47 became 798,046.
    class CopyingQuantizer(base):  # type: ignore[misc]
        def _compute_best_scale(self, *given: Any, **named: Any) -> Any:
            inspected = named["module2inspect"] if "module2inspect" in named else given[3]
            hook = inspected.register_state_dict_post_hook(_clone_state)
            try:
                return super()._compute_best_scale(*given, **named)
            finally:
                hook.remove()

    return CopyingQuantizer


def _clone_state(_module: Any, tensors: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name in tensors:
        if name.startswith(prefix):
            tensors[name] = tensors[name].clone()


def _without_rotation(base: Any) -> Any:
    """Return a quantizer for models without rotary position embeddings, such as OPT."""

    # Upstream: with transformers from 4.48 on it requires rotary embeddings of every model: "'OPTModel'
    # object has no attribute 'rotary_emb'". It does not compute them where the layers' arguments have some,
    # and passes to layers only arguments that they have.
    class UnrotatedQuantizer(base):  # type: ignore[misc]
        def init_quant(self, *given: Any, **named: Any) -> Any:
            modules, arguments, inputs = super().init_quant(*given, **named)
            if arguments.get("position_embeddings") is None:
                arguments["position_embeddings"] = ()
            return modules, arguments, inputs

    return UnrotatedQuantizer


@contextmanager
def _no_ipex() -> Iterator[None]:
    """Prevent AutoAWQ from requiring Intel's extension of torch on CPU."""
    # Upstream: "Please install intel_extension_for_pytorch", which has no release for today's torch. It
    # compares the device with exactly "cpu"; "cpu:0" is the same device to torch.
    import awq.models.base as base

    with patched(base, get_best_device=lambda: "cpu:0"):
        yield


def _choose_product(kernel: str) -> None:
    """Select the kernel of the whole process: its flags are read at every forward pass."""
    # Upstream: Triton is used wherever it is installed, and on CPU fails at the first forward pass.
    from awq.modules.linear import gemm

    if kernel in ("torch", "triton"):
        gemm.awq_ext = None
        gemm.TRITON_AVAILABLE = kernel == "triton"


def _halve_layers(model: Any) -> None:
    """Convert the scales of the quantized layers back to float16."""
    # Upstream: loading casts every buffer to the type of the model, and outside float16 the first product
    # fails: "expected m1 and m2 to have the same dtype".
    halve_scales(model)
