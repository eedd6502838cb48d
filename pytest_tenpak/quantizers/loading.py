"""Loading a checkpoint with transformers: from safetensors, where its space allows, without remote code."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, SpecError
from ..models.account import require_all_loaded, unread_tensors
from ..models.locate import VOCABULARIES
from ..models.safetensors_files import read_tensors
from .placement import device_map, quant_method, space_for

#: Rows in a block of bitsandbytes' packed CPU layout.
_PACKED_ROWS = 32
#: Whoever holds torch or oneDNN to less than AVX512-BF16 means bitsandbytes too, which has no such setting.
_WITHOUT_BF16 = {
    "ATEN_CPU_CAPABILITY": ("default", "avx2"),
    "ONEDNN_MAX_CPU_ISA": ("sse41", "avx", "avx2", "avx2_vnni", "avx512_core", "avx512_core_vnni"),
}


def import_transformers() -> None:
    """Import what loads any model, with the garbage collector held meanwhile.

    It would search the half million objects of these modules many times over, for a fifth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401
        from transformers import AutoModelForCausalLM, modeling_utils  # noqa: F401
    finally:
        if collects:
            gc.enable()


def empty_gpu_cache() -> None:
    """Give a GPU back what torch, if it runs on one, has cached of freed memory. Imports nothing."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def load_pretrained(directory: Path, device: str, dtype: str, **options: Any) -> Any:
    """Load a causal language model from a local directory, in evaluation mode.

    ``dtype`` is a torch type by name, or ``auto`` for the type the weights are stored in. Further
    keyword arguments go to ``from_pretrained``. In a job of a run with several devices, or one that offloads,
    layers are placed as :mod:`.placement` says, and ``device`` is the first one. Raises CheckpointError where
    files and model do not have the same tensors: the library would make up those that are missing;
    UnavailableError where the model does not fit.
    """
    return load_with_account(directory, device, dtype, **options)[0]


def load_with_account(directory: Path, device: str, dtype: str, **options: Any) -> tuple[Any, list[str]]:
    """Load as :func:`load_pretrained` does; also list the tensors of the files that the model does not use.

    These are of other parts, such as a vision half or heads that predict further tokens.
    """
    import_transformers()
    import torch
    from transformers import AutoModelForCausalLM

    from .int4 import modules  # noqa: F401 (registers our own format)

    placed = _placed(directory, device, dtype, **options)
    with _explained(directory):
        model, account = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            **placed,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are listed, and refused here
            **options,
        )
    stored = read_tensors(directory)
    require_all_loaded(model, account, directory, stored)
    if dtype != "auto" and getattr(model, "quantization_method", None) == "bitsandbytes":
        _cast_unquantized(model, getattr(torch, dtype))
    if device == "cpu" and getattr(model, "is_loaded_in_4bit", False):
        _fit_4bit_to_cpu(model)
    return model.eval(), unread_tensors(model, account, stored)


def _placed(directory: Path, device: str, dtype: str, **options: Any) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that say where modules go."""
    space = space_for(device)
    if space is None:
        return {"device_map": {"": device}}
    return {
        "device_map": device_map(directory, dtype, space, "quantization_config" in options),
        "offload_folder": space.folder,
        # Our packed layers have their weights in buffers.
        "offload_buffers": quant_method(directory) == "tenpak-int4",
    }


def load_tokenizer(directory: Path) -> Any:
    """Load the tokenizer of a local directory; raises CheckpointError for one that cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except MemoryError:
        raise
    except Exception as fault:  # the tokenizers library raises Exception itself
        problem = f"the tokenizer in {directory} cannot be loaded"
        if (directory / "tokenizer.json").is_file():
            raise CheckpointError(
                problem,
                given=f"{type(fault).__name__}: {_first_line(fault)}",
                accepted="tokenizer.json, as save_pretrained() writes it",
                remedy="copy or save the tokenizer again",
            ) from fault
        # What transformers says then is about the last library that it tried, which may be any.
        found = [name for name in VOCABULARIES if (directory / name).is_file()]
        raise CheckpointError(
            f"{problem}: there is no tokenizer.json",
            given=f"{', '.join(found)}, which transformers could not read here",
            accepted="tokenizer.json, or files for which the library is installed",
            remedy="save it with save_pretrained() where it can be loaded, which writes tokenizer.json; "
            "or install here what reads a .model file: pip install sentencepiece protobuf",
        ) from fault


def require_causal_lm(directory: Path) -> None:
    """Raise CheckpointError unless transformers itself has a causal language model for the config."""
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    file = directory / "config.json"
    given = json.loads(file.read_text(encoding="utf-8"))
    kind = given.get("model_type")
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError) as fault:
        if "auto_map" in given:
            raise CheckpointError(
                f"the model in {directory} needs code of its own, which is never run",
                given=f"model_type {kind!r} with auto_map in {file}; transformers {transformers.__version__}",
                accepted="model types that transformers has itself",
                remedy="upgrade transformers if a later version has this model type",
            ) from fault
        raise CheckpointError(
            f"transformers {transformers.__version__} cannot read {file}",
            given=f"model_type {kind!r}: {_first_line(fault)}",
            accepted="the config of a model type that this version has",
            remedy="upgrade transformers, or correct config.json",
        ) from fault
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise CheckpointError(
            f"the model in {directory} is not a causal language model",
            given=f"model_type {kind!r} in {file}, for which transformers has no AutoModelForCausalLM",
            accepted="models that predict the next token from those before it",
            remedy="name a decoder; encoders and encoder-decoder models have no perplexity of this kind",
        )


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip().splitlines() or [""])[0][:300]


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Raise CheckpointError where transformers finds no weights, or cannot put quantized ones together."""
    try:
        yield
    except OSError as fault:
        if "no file named" not in str(fault):
            raise
        raise CheckpointError(
            f"transformers finds no weights in {directory}",
            given=", ".join(sorted(path.name for path in directory.glob("*.safetensors"))),
            accepted="model.safetensors, or shards of it with model.safetensors.index.json",
            remedy="rename the file, or save the model again with save_pretrained()",
        ) from fault
    except RuntimeError as fault:
        if "automatic conversion of the weights" not in str(fault):
            raise
        raise CheckpointError(
            f"the quantized tensors in {directory} cannot be put together",
            given="transformers lists them in its report, in the log of this job",
            accepted="all parts of each quantized layer: codes, scales, and what else its format has",
            remedy="copy or quantize the checkpoint again",
        ) from fault


def _cast_unquantized(model: Any, dtype: Any) -> None:
    """Cast the tensors that bitsandbytes leaves unquantized to the requested type.

    transformers (5.23) leaves them in their stored type: a float16 model is then computed in float16,
    whatever was requested, and a model whose activations overflow float16 (gemma) gives NaN.
    """
    stored = set(model.state_dict())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        # Rotary frequencies are computed, not stored, and keep their precision.
        if name in stored and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _fit_4bit_to_cpu(model: Any) -> None:
    """Avoid shapes that bitsandbytes' CPU kernels (0.50.2) get wrong.

    Where the block size does not divide a layer's input width, dequantizing mixes blocks of neighbouring
    rows: no error, weights off by a fifth, a perplexity of 194,692 in place of 55. Such a layer is refused.
    Where 32 does not divide the output width, the packed kernel of CPUs with AVX512-BF16 fails at the
    first forward pass ("N must be divisible by block_n"); the flag that selects it is cleared, and the
    general kernel, which is right, is used.
    """
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is None:
            continue
        outputs, inputs = state.shape
        if inputs % state.blocksize:
            raise SpecError(
                f"bitsandbytes on CPU cannot compute with blocksize={state.blocksize} on this model",
                given=f"{name} has an input width of {inputs}",
                accepted="a blocksize that divides the input width of every quantized layer",
                remedy="choose another blocksize, skip the module with skip_modules, or run on CUDA",
            )
        if outputs % _PACKED_ROWS or _is_held_below_bf16():
            module.support_avx512bf16_for_cpu = False


def _is_held_below_bf16() -> bool:
    return any(os.environ.get(name, "").lower() in values for name, values in _WITHOUT_BF16.items())


def architecture_of(model: Path, supported: Collection[str], backend: str) -> str:
    """Return the model type of a model directory; raise SpecError when the backend does not support it."""
    found: str = json.loads((model / "config.json").read_text(encoding="utf-8"))["model_type"]
    if found not in supported:
        raise SpecError(
            f"backend {backend!r} does not support the architecture {found!r}",
            given=f"model_type {found!r} in {model / 'config.json'}",
            accepted=", ".join(sorted(supported)),
            remedy="use another backend or method for this model",
        )
    return found
