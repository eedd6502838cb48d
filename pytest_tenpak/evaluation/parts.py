"""The parts in which a loaded checkpoint differs from the reference, each to be put into it by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import groupby
from typing import Any

from ..errors import MeasurementError
from ..models.decoder import decoder_layers
from .replay import Part

#: The norm whose outputs a decoder layer's MLP reads; the first one that the layer has counts.
_MLP_NORMS = ("pre_feedforward_layernorm", "post_attention_layernorm", "final_layer_norm", "ln_2", "norm2")


def differing_parts(reference: Any, checkpoint: Any) -> list[Part]:
    """Return the modules in which the two models differ, in the order of the reference.

    A module with tensors of its own counts, as one; of experts that share tensors, each expert does. A module
    differs where its class does (as quantized ones do), or a tensor. Raises MeasurementError where the
    checkpoint has no module of a name.
    """
    theirs = dict(checkpoint.named_modules())
    prefix, depth = _layers_name(reference), len(decoder_layers(reference))
    found: list[Part] = []
    for name, module in reference.named_modules():
        if not _own_tensors(module):
            continue
        if name not in theirs:
            raise MeasurementError(
                "the checkpoint's modules do not correspond to the reference's",
                given=f"no module {name} in the loaded checkpoint",
                accepted="checkpoints that load into modules with the reference's names",
            )
        if module is reference.get_output_embeddings():
            start = depth
        else:
            inside = prefix and name.startswith(f"{prefix}.")
            start = int(name[len(prefix) + 1 :].partition(".")[0]) if inside else 0
        swaps = _swaps(reference, name, module, theirs[name])
        found += [Part(f"{name}{suffix}", start, (swap,)) for suffix, swap in swaps]
    return found


def by_layer(reference: Any, parts: Sequence[Part]) -> list[Part]:
    """Return the parts, those of each decoder layer together as one."""
    prefix = _layers_name(reference)
    return _joined(parts, lambda part: ".".join(part.name.split(".")[: prefix.count(".") + 2]), prefix)


def by_block(reference: Any, parts: Sequence[Part]) -> list[Part]:
    """Return the parts, those of a layer's attention with its norm as one, and those of its MLP with its.

    Where a method moves scales between layers, only these mean the same in both models.
    """
    prefix, layers = _layers_name(reference), decoder_layers(reference)
    return _joined(parts, lambda part: _block(prefix, layers, part), prefix)


def _layers_name(model: Any) -> str:
    layers = decoder_layers(model)
    return next((name for name, module in model.named_modules() if module is layers), "")


def _block(prefix: str, layers: Any, part: Part) -> str:
    """Return the name of a block: the path of its first module that is no norm."""
    child = part.name[len(prefix) + 1 :].split(".")[1]
    layer = layers[part.start]
    names = [name for name, _ in layer.named_children()]
    of_mlp = next((name for name in _MLP_NORMS if name in names), "")

    def is_attention(name: str) -> bool:
        if _is_norm(name):
            return name != of_mlp and "feedforward" not in name
        return "attn" in name or "attention" in name

    inside = is_attention(child)
    alike = [name for name in names if is_attention(name) == inside and not _is_norm(name)]
    return f"{prefix}.{part.start}.{alike[0] if alike else child}"


def _is_norm(name: str) -> bool:
    return "norm" in name or name.startswith("ln_")


def _joined(parts: Sequence[Part], name_of: Callable[[Part], str], prefix: str) -> list[Part]:
    """Join the parts of decoder layers that have one name; the others stay as they are."""
    inside = [part for part in parts if part.name.startswith(f"{prefix}.")]
    named = sorted(inside, key=lambda part: (part.start, name_of(part)))
    joined = [
        Part(name, start, tuple(swap for part in group for swap in part.swaps))
        for (start, name), group in groupby(named, key=lambda part: (part.start, name_of(part)))
    ]
    return [*(part for part in parts if part not in inside), *joined]


# ---------------------------------------------------------------- one module

_Swap = Callable[[], AbstractContextManager[None]]


def _swaps(model: Any, name: str, module: Any, other: Any) -> Iterator[tuple[str, _Swap]]:
    """Yield what puts ``other``'s part of a module into the model, with a suffix of the module's name."""
    own, theirs = _own_tensors(module), _own_tensors(other)
    alike = type(module) is type(other) and own.keys() == theirs.keys()
    differing = [key for key in own if not alike or _differ(own[key], theirs[key])]
    if not differing:
        return
    if alike and "expert" in name and all(_is_stack(own[key], theirs[key]) for key in differing):
        for expert in range(own[differing[0]].shape[0]):
            if any(_differ(own[key][expert], theirs[key][expert]) for key in differing):
                rows = [(own[key], theirs[key], expert) for key in differing]
                yield f".{expert}", partial(_with_slices, rows)
    elif alike and any(True for _ in module.children()):
        yield "", partial(_with_tensors, module, {key: theirs[key] for key in differing})
    else:
        yield "", partial(_with_module, model, name, other)


def _own_tensors(module: Any) -> dict[str, Any]:
    """Return the tensors that a module itself stores, by name."""
    kept = {n: t for n, t in module._buffers.items() if n not in module._non_persistent_buffers_set}
    return {name: tensor for name, tensor in {**module._parameters, **kept}.items() if tensor is not None}


def _differ(one: Any, other: Any) -> bool:
    import torch

    return one.shape != other.shape or not torch.equal(one.to(other.device, other.dtype), other)


def _is_stack(one: Any, other: Any) -> bool:
    """Return whether tensors of experts are stacked: expert, output, input."""
    return len(one.shape) == 3 and bool(one.shape == other.shape)


@contextmanager
def _with_module(model: Any, name: str, module: Any) -> Iterator[None]:
    path, _, leaf = name.rpartition(".")
    parent = model.get_submodule(path)
    own = getattr(parent, leaf)
    setattr(parent, leaf, module)
    try:
        yield
    finally:
        setattr(parent, leaf, own)


@contextmanager
def _with_tensors(module: Any, tensors: dict[str, Any]) -> Iterator[None]:
    own = {name: getattr(module, name) for name in tensors}
    for name, tensor in tensors.items():
        setattr(module, name, tensor)
    try:
        yield
    finally:
        for name, tensor in own.items():
            setattr(module, name, tensor)


@contextmanager
def _with_slices(rows: Sequence[tuple[Any, Any, int]]) -> Iterator[None]:
    own = [tensor.data[number].clone() for tensor, _, number in rows]
    for tensor, other, number in rows:
        tensor.data[number] = other.data[number]
    try:
        yield
    finally:
        for (tensor, _, number), kept in zip(rows, own, strict=True):
            tensor.data[number] = kept
