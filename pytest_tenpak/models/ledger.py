"""What a checkpoint stores of a model, and in how many bytes, from the headers of the files on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..metrics.measurement import Ledger
from .safetensors_files import StoredTensor, read_tensors, weight_files

#: Increased whenever a change of this module changes what it counts or finds; part of cache keys.
LEDGER_VERSION = 2

FLOATS = {"F64", "F32", "F16", "BF16"}
INPUT_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
_BUFFERS = ("rotary_emb.inv_freq", "masked_bias")
OUTPUT_HEADS = ("lm_head.weight", "embed_out.weight")
#: Embeddings and output heads: no method here quantizes them.
EMBEDDINGS = (
    *INPUT_EMBEDDINGS,
    *OUTPUT_HEADS,
    "embed_positions.weight",
    "wpe.weight",
    "embeddings.weight",
)


@dataclass(frozen=True)
class Contents:
    """What a checkpoint stores of an unquantized model.

    ``layers``: the modules whose weights are stored quantized, by their names in the checkpoint.
    ``decoder_weights``: the weights that methods may quantize, all matrices except embeddings and output
    heads. ``missing``: tensors of the model, and parts of quantized layers, that the checkpoint lacks.
    ``left_out``: tensors in the model's files that its loader does not read and the checkpoint has not
    either, counted by the beginning of their names. ``added``: tensors that the checkpoint has and the model
    has not, and that are no part of a quantized layer.
    """

    ledger: Ledger
    layers: tuple[str, ...]
    decoder_weights: int
    missing: tuple[str, ...]
    left_out: Mapping[str, int]
    added: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Contents:
        """Return the contents that :meth:`to_dict` wrote, from JSON."""
        rows = {name: tuple(plain[name]) for name in ("layers", "missing", "added")}
        return cls(**{**plain, **rows, "ledger": Ledger(**plain["ledger"])})


def read_contents(
    checkpoint: Path, model: Path, unread: Collection[str] = (), own_unread: Collection[str] = ()
) -> Contents:
    """Compare names, types and sizes in the headers of a checkpoint's and a model's files.

    ``unread`` are tensors of the model's files that no loader of its architecture reads, such as the vision
    half of a model whose text half is measured; ``own_unread`` are those of the checkpoint's. A layer counts
    as quantized when the model has ``NAME.weight`` in a floating type and the checkpoint stores it
    otherwise: under other tensors, or as integers. Everything stored under ``NAME.`` except its bias then
    counts as codes, scales, zeros or indices. Raises CheckpointError for damaged files.
    """
    whole, stored = corresponding_tensors(checkpoint, model, unread)
    layers = quantized_layers(whole, stored)
    prefixes = {f"{layer}." for layer in layers}
    counted = [tensor for name, tensor in stored.items() if name not in own_unread]
    return Contents(
        ledger=Ledger(
            weights=sum(tensor.numel for tensor in whole.values()),
            tensor_bytes=sum(tensor.size for tensor in counted),
            file_bytes=sum(path.stat().st_size for path in weight_files(checkpoint)),
            layer_weights=sum(whole[f"{layer}.weight"].numel for layer in layers),
            layer_bytes=sum(tensor.size for tensor in counted if _layer_of(tensor.name) in prefixes),
        ),
        layers=tuple(layers),
        decoder_weights=sum(
            tensor.numel
            for name, tensor in whole.items()
            if len(tensor.shape) > 1 and not name.endswith(EMBEDDINGS)
        ),
        missing=tuple(sorted([*_lacking(whole, stored, prefixes), *_incomplete(prefixes, stored)])),
        added=tuple(
            sorted(
                tensor.name
                for tensor in counted
                if tensor.name not in whole
                and _layer_of(tensor.name) not in prefixes
                and not is_buffer(tensor)
            )
        ),
        left_out=dict(Counter(".".join(name.split(".")[:2]) for name in unread if name not in stored)),
    )


def corresponding_tensors(
    checkpoint: Path, model: Path, unread: Collection[str] = ()
) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor]]:
    """Return the model's weights by the names that the checkpoint uses, and what the checkpoint stores.

    Left out of the model's are buffers, an output head that repeats the input embeddings, and ``unread``.
    """
    stored = read_tensors(checkpoint)
    read = {n: tensor for n, tensor in _without_buffers(read_tensors(model)).items() if n not in unread}
    return _renamed_as(stored, _without_tied_copy(read)), stored


def quantized_layers(whole: Mapping[str, StoredTensor], stored: Mapping[str, StoredTensor]) -> list[str]:
    """List the modules whose weights are stored quantized, of :func:`corresponding_tensors`."""
    weights = [name for name in whole if name.endswith(".weight") and _is_quantized(name, whole, stored)]
    return [name.removesuffix(".weight") for name in weights]


def parts_of(layer: str, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return what a quantized layer is stored as, by what follows its name; its bias is not among it."""
    prefix = f"{layer}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in stored.items()
        if name.startswith(prefix) and _layer_of(name) == prefix
    }


def _lacking(
    whole: Mapping[str, StoredTensor], stored: Mapping[str, StoredTensor], layers: Collection[str]
) -> Iterator[str]:
    """Yield the tensors of the model that are stored neither as they are nor as a quantized layer.

    Experts that one side stores one by one and the other together do not correspond by name; these are
    left to the loader's own account.
    """
    experts = {_experts_of(name) for name in stored}
    for name in whole:
        is_stored = name in stored or _layer_of(name) in layers
        if not is_stored and (not _experts_of(name) or _experts_of(name) not in experts):
            yield name


def _experts_of(name: str) -> str:
    """Return the part of a name up to its experts; empty where it has none."""
    head, found, _ = name.partition(".experts.")
    return head if found else ""


def _incomplete(layers: Collection[str], stored: Mapping[str, StoredTensor]) -> Iterator[str]:
    """Yield what a quantized layer lacks that others have whose codes are of the same name and type.

    Only for formats in which every layer has the same parts: of GPTQ, AWQ and bitsandbytes.
    """
    parts: dict[str, set[str]] = {layer: set() for layer in layers}
    for name in stored:
        if (layer := _layer_of(name)) in parts:
            parts[layer].add(name.removeprefix(layer))
    alike: dict[tuple[str, str], list[str]] = {}
    for layer, found in parts.items():
        for code in found & {"qweight", "weight"}:
            alike.setdefault((code, stored[layer + code].dtype), []).append(layer)
    for layer in parts.keys() - {layer for group in alike.values() for layer in group}:
        if parts[layer] & {"qzeros", "g_idx", "weight.absmax", "SCB"}:
            yield layer + ("weight" if parts[layer] & {"weight.absmax", "SCB"} else "qweight")
    for group in alike.values():
        usual = set().union(*(parts[layer] for layer in group)) - {"bias", "weight_format"}
        if usual & {"qzeros", "weight.absmax", "SCB"}:
            yield from (layer + part for layer in group for part in usual - parts[layer])


def _is_quantized(name: str, whole: Mapping[str, StoredTensor], stored: Mapping[str, StoredTensor]) -> bool:
    prefix = name.removesuffix("weight")
    tensor = stored.get(name)
    if whole[name].dtype not in FLOATS:
        return False
    if tensor is not None:
        return tensor.dtype not in FLOATS
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
        name: tensor for name, tensor in tensors.items() if tensor.dtype in FLOATS and not is_buffer(tensor)
    }


def is_buffer(tensor: StoredTensor) -> bool:
    """Return whether a tensor is a causal mask or a rotary frequency, which today's models compute."""
    return tensor.name.endswith(_BUFFERS) or (
        tensor.name.endswith(("attn.bias", "attention.bias")) and len(tensor.shape) > 1
    )


def _renamed_as(
    stored: Mapping[str, StoredTensor], whole: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Return ``whole`` with the names that the checkpoint uses.

    Some models are published as the bare body (GPT-2's ``h.0.…``), and saved again with a head and a
    prefix (``transformer.h.0.…``), or the other way round. The prefix under which most layers match wins.
    """
    layers = {_layer_of(name) for name in stored}
    renamings: list[dict[str, StoredTensor]] = [dict(whole)]
    # Models of several modalities nest their text half once more.
    renamings.append({name.replace("language_model.", "", 1): tensor for name, tensor in whole.items()})
    for head in sorted({name.partition(".")[0] + "." for name in (*stored, *whole)}):
        renamings.append({name.removeprefix(head): tensor for name, tensor in whole.items()})
        renamings.append({head + name.removeprefix(head): tensor for name, tensor in whole.items()})
    return max(renamings, key=lambda names: sum(_layer_of(name) in layers for name in names))


def _without_tied_copy(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors without an output head that repeats the input embeddings byte for byte.

    Whether embeddings are tied is a default of each architecture, which config.json may leave out, so the
    bytes are compared.
    """
    embeddings = [tensor for name, tensor in tensors.items() if name.endswith(INPUT_EMBEDDINGS)]
    copies = {
        head.name
        for head in tensors.values()
        if head.name.endswith(OUTPUT_HEADS) and any(_same_bytes(head, other) for other in embeddings)
    }
    return {name: tensor for name, tensor in tensors.items() if name not in copies}


def _same_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(a == b for a, b in zip(one.chunks(), other.chunks(), strict=True))
