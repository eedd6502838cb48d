"""Where the modules of a model go: on one device, over several GPUs, with layers in host memory or on disk.

What a run allows is a :class:`Placement`, which travels with jobs; how many bytes are free is a
:class:`Space`, found in the job's process just before it loads. From both :func:`place` makes the map that
accelerate dispatches by. Loaders of other packages are given a device's name, so the space is in effect for
a context, in which :func:`~.loading.load_pretrained` follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UnavailableError, named
from ..models.config import read_config
from ..models.decoder import decoder_layers
from ..models.safetensors_files import StoredTensor, read_tensors
from ..units import in_gib

NONE, HOST, DISK = "none", "cpu", "disk"
OFFLOADS = (NONE, HOST, DISK)
#: Formats of quantized checkpoints whose layers compute with weights that are brought to them. Others repack
#: them after loading (GPTQ, AWQ), or their loader refuses it (bitsandbytes).
OFFLOADABLE = ("tenpak-int4",)
#: Bytes of one element, by the name of a torch type.
_ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_FLOATING = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Placement:
    """What a run allows: ``devices`` by torch name (empty: the job's one), the first of which takes the text.

    ``spread``: layers go over all of them even where one is enough. ``offload`` is where layers go that do
    not fit: one of OFFLOADS. ``memory`` is the limit of the process in bytes, 0 for none.
    """

    devices: tuple[str, ...] = ()
    spread: bool = False
    offload: str = NONE
    memory: int = 0

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Placement:
        """Return the placement whose fields were written as JSON."""
        return cls(**{**plain, "devices": tuple(plain["devices"])})


@dataclass(frozen=True)
class Space:
    """Bytes that are free for weights: of each device in order, and of the ``host`` for offloaded layers.

    ``folder`` takes weights that are converted on loading and go to disk; all others are read from the
    checkpoint's own files.
    """

    rooms: Mapping[str, int] = field(default_factory=dict)
    host: int = 0
    offload: str = NONE
    spread: bool = False
    folder: Path | None = None


class Block(NamedTuple):
    """A module that stays whole: its path in the model, the bytes of its weights, whether it is a layer."""

    name: str
    bytes: int
    is_layer: bool = False


_spaces: list[Space] = []


@contextmanager
def within(space: Space) -> Iterator[None]:
    """Let models be loaded into a space in this context."""
    _spaces.append(space)
    try:
        yield
    finally:
        _spaces.pop()


def space_for(device: str) -> Space | None:
    """Return the space in effect if ``device`` is its first; None where the model goes there as a whole."""
    space = _spaces[-1] if _spaces else None
    if space is None or next(iter(space.rooms), None) != device:
        return None
    return space if len(space.rooms) > 1 or space.offload != NONE else None


# ---------------------------------------------------------------- the choice


def place(blocks: Sequence[Block], space: Space) -> dict[str, str]:
    """Return the place of each block by its name, or that of the whole model under the empty name.

    One device, where all fits there and nothing is to be spread. Otherwise layers fill the devices in order,
    alike where they can. What comes before the layers is on the first device, what comes after on the last.
    Layers that fit on none go where ``offload`` says, the last ones first; each device then keeps room for
    the largest one. Raises UnavailableError where there is no such place.
    """
    devices = list(space.rooms)
    total = sum(block.bytes for block in blocks)
    if total <= space.rooms[devices[0]] and not (space.spread and len(devices) > 1):
        return {"": devices[0]}
    layers = [block for block in blocks if block.is_layer]
    ends = _ends(blocks, devices)
    taken = dict.fromkeys(devices, 0)
    for block in blocks:
        if not block.is_layer:
            taken[ends[block.name]] += block.bytes
    largest = max((block.bytes for block in layers), default=0)
    alike = total / len(devices) + largest
    rooms = {device: min(room, alike) - taken[device] for device, room in space.rooms.items()}
    filled, left = _fill(layers, rooms)
    if left:
        filled, left = _fill(layers, {device: room - taken[device] for device, room in space.rooms.items()})
    if left:
        if space.offload == NONE:
            raise _no_room(total, space)
        rooms = {device: room - taken[device] - largest for device, room in space.rooms.items()}
        filled, left = _fill(layers, rooms)
        if space.offload == HOST and sum(block.bytes for block in left) > space.host:
            raise _no_room(total, space)
    return {**ends, **filled, **{block.name: space.offload for block in left}}


def _ends(blocks: Sequence[Block], devices: Sequence[str]) -> dict[str, str]:
    """Return the places of what is no layer. Without weights of its own it is used by all, or tied."""
    first = next((n for n, block in enumerate(blocks) if block.is_layer), len(blocks))
    return {
        block.name: devices[0] if n < first or not block.bytes else devices[-1]
        for n, block in enumerate(blocks)
        if not block.is_layer
    }


def _fill(layers: Sequence[Block], rooms: Mapping[str, float]) -> tuple[dict[str, str], list[Block]]:
    """Fill devices with layers in order; return their places, and the layers that are left."""
    places: dict[str, str] = {}
    waiting = list(layers)
    for device, room in rooms.items():
        while waiting and waiting[0].bytes <= room:
            room -= waiting[0].bytes
            places[waiting.pop(0).name] = device
    return places, waiting


def _no_room(total: int, space: Space) -> UnavailableError:
    free = ", ".join(f"{device} {in_gib(max(0, room))}" for device, room in space.rooms.items())
    host = f", host memory {in_gib(max(0, space.host))}" if space.offload == HOST else ""
    return UnavailableError(
        "the model does not fit on the devices of this run",
        given=f"{in_gib(total)} of weights; room for {free}{host}",
        accepted="a model that fits, or layers in host memory or on disk",
        remedy="use --tenpak-offload=disk, which is slow"
        + ("" if space.offload == HOST else "; --tenpak-offload=cpu")
        + "; more or larger GPUs (--tenpak-device=cuda:0,1), or a smaller model",
    )


# ---------------------------------------------------------------- one model


def device_map(directory: Path, dtype: str, space: Space, quantizing: bool = False) -> dict[str, str]:
    """Return where each module of the model in a directory goes.

    Raises UnavailableError where it does not fit, or where layers would be offloaded whose format cannot be
    (with ``quantizing``, they are quantized while they are loaded).
    """
    placed = place(_blocks(directory, dtype), space)
    layers = [name for name, where in placed.items() if where == DISK or (where == HOST != _main(space))]
    form = "bitsandbytes" if quantizing else quant_method(directory)
    if layers and form and form not in OFFLOADABLE:
        raise UnavailableError(
            f"layers in the format {form!r} cannot be in host memory or on disk",
            given=f"{len(layers)} layers do not fit: {named(layers)}",
            accepted=f"unquantized models, and {', '.join(OFFLOADABLE)}",
            remedy="use a device with more memory, or raise --tenpak-memory",
        )
    return placed


def quant_method(directory: Path) -> str:
    """Return the format of a quantized checkpoint by its config; empty for an unquantized model."""
    recipe = read_config(directory).get("quantization_config") or {}
    return str(recipe.get("quant_method") or "unknown") if recipe else ""


def _main(space: Space) -> str:
    return next(iter(space.rooms))


def _blocks(directory: Path, dtype: str) -> list[Block]:
    """Return the blocks of a model in the order of its modules, with the bytes that they take when loaded."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = decoder_layers(model)
    names = {id(module): name for name, module in model.named_modules()}
    inside = names[id(layers)] if len(layers) else ""
    head = names.get(id(model.get_output_embeddings()), "")
    tied = head if getattr(config.get_text_config(), "tie_word_embeddings", False) else ""
    stored, prefix = loaded_bytes(directory, dtype), f"{model.base_model_prefix}."
    found = dict.fromkeys(_names(model, inside), 0)
    for name, size in stored.items():
        for one in (name, f"{prefix}{name}"):
            owner = next((block for block in found if f"{one}.".startswith(f"{block}.")), None)
            if owner is not None:
                found[owner] += size
                break
    return [
        Block(name, 0 if name == tied else size, bool(inside) and name.startswith(f"{inside}."))
        for name, size in found.items()
    ]


def _names(model: Any, inside: str, path: str = "") -> Iterator[str]:
    """Yield the modules and parameters that together are the model, down to its decoder layers."""
    yield from (f"{path}{name}" for name, _ in model.named_parameters(recurse=False))
    yield from (f"{path}{name}" for name, _ in model.named_buffers(recurse=False))
    for name, child in model.named_children():
        here = f"{path}{name}"
        if inside and f"{inside}.".startswith(f"{here}."):
            yield from _names(child, inside, f"{here}.")
        else:
            yield here


def loaded_bytes(directory: Path, dtype: str) -> dict[str, int]:
    """Return the bytes of each stored tensor when it is loaded in a torch type: quantized ones as stored."""
    item = 0 if quant_method(directory) else _ITEM_BYTES.get(dtype, 0)
    return {name: _loaded(tensor, item) for name, tensor in read_tensors(directory).items()}


def _loaded(tensor: StoredTensor, item: int) -> int:
    return tensor.numel * item if item and tensor.dtype in _FLOATING else tensor.size


def describe(model: Any) -> str:
    """Say where a model's layers are: ``cuda:0 layers 0-15, disk layers 16-31``; empty for one device."""
    placed = getattr(model, "hf_device_map", None) or {}
    if len(set(placed.values())) < 2:
        return ""
    layers = decoder_layers(model)
    inside = next((name for name, module in model.named_modules() if module is layers), "")
    where = [(n, str(placed.get(f"{inside}.{n}", ""))) for n in range(len(layers))]
    return ", ".join(_range(device, list(group)) for device, group in groupby(where, key=lambda row: row[1]))


def _range(device: str, rows: Sequence[tuple[int, str]]) -> str:
    first, last = rows[0][0], rows[-1][0]
    return f"{device} layer {first}" if first == last else f"{device} layers {first}-{last}"
