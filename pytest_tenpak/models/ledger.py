"""The compression ledger of a checkpoint, from the headers of the files on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..metrics.measurement import Ledger
from .safetensors_files import StoredTensor, read_tensors, weight_files

_FLOATS = {"F64", "F32", "F16", "BF16"}
_INPUT_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
_BUFFERS = ("rotary_emb.inv_freq", "masked_bias")
_OUTPUT_HEADS = ("lm_head.weight", "embed_out.weight")


def ledger(checkpoint: Path, model: Path) -> Ledger:
    """Count the bytes of ``checkpoint``, and the weights of the unquantized ``model`` that they store.

    A layer counts as quantized when the model has ``NAME.weight`` in a floating type and the checkpoint
    stores it otherwise: under other tensors, or as integers. Everything stored under ``NAME.`` except
    its bias then counts as codes, scales, zeros or indices. Raises CheckpointError for damaged files.
    """
    stored = read_tensors(checkpoint)
    whole = _renamed_as(stored, _without_tied_copy(_without_buffers(read_tensors(model))))
    layers = _quantized(whole, stored)
    prefixes = {name.removesuffix("weight") for name in layers}
    layer_bytes = sum(tensor.size for name, tensor in stored.items() if _layer_of(name) in prefixes)
    return Ledger(
        weights=sum(tensor.numel for tensor in whole.values()),
        tensor_bytes=sum(tensor.size for tensor in stored.values()),
        file_bytes=sum(path.stat().st_size for path in weight_files(checkpoint)),
        layer_weights=sum(whole[name].numel for name in layers),
        layer_bytes=layer_bytes,
    )


def quantized_layers(checkpoint: Path, model: Path) -> list[str]:
    """List the modules whose weights the checkpoint stores quantized, by their names in the checkpoint."""
    stored = read_tensors(checkpoint)
    whole = _renamed_as(stored, _without_buffers(read_tensors(model)))
    return [name.removesuffix(".weight") for name in _quantized(whole, stored)]


def _quantized(whole: Mapping[str, StoredTensor], stored: Mapping[str, StoredTensor]) -> list[str]:
    return [name for name in whole if name.endswith(".weight") and _is_quantized(name, whole, stored)]


def _is_quantized(name: str, whole: Mapping[str, StoredTensor], stored: Mapping[str, StoredTensor]) -> bool:
    prefix = name.removesuffix("weight")
    tensor = stored.get(name)
    if whole[name].dtype not in _FLOATS:
        return False
    if tensor is not None:
        return tensor.dtype not in _FLOATS
    # A tied head that the checkpoint leaves out is not a quantized layer.
    return any(other.startswith(prefix) and other != prefix + "bias" for other in stored)


def _layer_of(name: str) -> str:
    """Return ``a.b.`` for ``a.b.qweight`` and ``a.b.weight.absmax``, an empty string for a bias."""
    head, found, _ = name.rpartition(".weight.")
    layer, _, leaf = (head, "", "weight") if found else name.rpartition(".")
    return "" if leaf == "bias" else layer + "."


def _without_buffers(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors that are weights: older files also hold causal masks and rotary frequencies."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.dtype in _FLOATS
        and not name.endswith(_BUFFERS)
        and not (name.endswith(("attn.bias", "attention.bias")) and len(tensor.shape) > 1)
    }


def _renamed_as(
    stored: Mapping[str, StoredTensor], whole: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Return ``whole`` with the names that the checkpoint uses.

    Some models are published as the bare body (GPT-2's ``h.0.…``), and saved again with a head and a
    prefix (``transformer.h.0.…``), or the other way round. The prefix under which most layers match wins.
    """
    layers = {_layer_of(name) for name in stored}
    renamings: list[dict[str, StoredTensor]] = [dict(whole)]
    for head in sorted({name.partition(".")[0] + "." for name in (*stored, *whole)}):
        renamings.append({name.removeprefix(head): tensor for name, tensor in whole.items()})
        renamings.append({head + name.removeprefix(head): tensor for name, tensor in whole.items()})
    return max(renamings, key=lambda names: sum(_layer_of(name) in layers for name in names))


def _without_tied_copy(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors without an output head that repeats the input embeddings byte for byte.

    Whether embeddings are tied is a default of each architecture, which config.json may leave out, so the
    bytes are compared.
    """
    embeddings = [tensor for name, tensor in tensors.items() if name.endswith(_INPUT_EMBEDDINGS)]
    copies = {
        head.name
        for head in tensors.values()
        if head.name in _OUTPUT_HEADS and any(_same_bytes(head, other) for other in embeddings)
    }
    return {name: tensor for name, tensor in tensors.items() if name not in copies}


def _same_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(a == b for a, b in zip(one.chunks(), other.chunks(), strict=True))
