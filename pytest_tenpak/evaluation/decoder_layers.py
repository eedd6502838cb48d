"""Decoder layers one by one: what each adds to its inputs, compared with the reference's layer.

Perplexity does not show a fault in one layer that is small, or that happens to help: scales of one layer of
SmolLM2 that are 2 % too large move it by −0.9 to +0.3 %. So the first tokens of the corpus go through every
layer of the checkpoint with the inputs that the reference's layers had, in one forward pass. Inputs and
outputs of a whole layer mean the same however a method scales and folds weights inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..models.decoder import decoder_layers, removed_after
from ..models.dispatched import input_device

#: Tokens that go through the layers. The first one is left out of the figures: models put outliers there.
TOKENS = 129
#: With fewer tokens than this there are no figures of a layer.
_LEAST = 3


def save_layers(model: Any, ids: Sequence[int], file: Path) -> None:
    """Save the inputs and outputs of every decoder layer for the first tokens of ``ids`` to ``file``.

    Saves nothing where there are too few tokens.
    """
    from safetensors.torch import save_file

    if len(ids) < _LEAST:
        return
    inputs, outputs = _run(model, ids, lambda _, given: given)
    half = file.with_suffix(".half")
    rows = {"inputs": inputs, "outputs": outputs}
    save_file({f"{name}.{n}": row for name, all_ in rows.items() for n, row in enumerate(all_)}, half)
    half.replace(file)


def compare_layers(model: Any, ids: Sequence[int], file: Path) -> dict[str, list[float]]:
    """Return ``gain`` and ``error`` of every decoder layer, compared with the reference's saved in ``file``.

    With r and q the additions of the reference's and this model's layer to one token's state: gain is the
    mean of q·r / r·r over tokens (1 is the same size), error the root of the mean of |q − r|² / |r|². Each
    token counts equally, however large its state. Empty where the layers do not correspond, or none were
    saved.
    """
    import torch
    from safetensors.torch import load_file

    if not file.is_file():
        return {}
    saved = load_file(file, device=str(input_device(model)))
    given = [saved[f"inputs.{n}"] for n in range(len(saved) // 2)]
    if len(given) != len(decoder_layers(model)):
        return {}
    _, outputs = _run(model, ids, lambda n, _: given[n])
    figures: dict[str, list[float]] = {"gain": [], "error": []}
    for n, output in enumerate(outputs):
        added = (output.to(given[n].device) - given[n])[0, 1:].double()
        wanted = (saved[f"outputs.{n}"] - given[n])[0, 1:].double()
        size = (wanted * wanted).sum(1).clamp(min=torch.finfo(torch.double).tiny)
        figures["gain"].append(float(((added * wanted).sum(1) / size).mean()))
        figures["error"].append(float((((added - wanted) ** 2).sum(1) / size).mean().sqrt()))
    return figures


def _run(model: Any, ids: Sequence[int], choose: Callable[[int, Any], Any]) -> tuple[list[Any], list[Any]]:
    """Return inputs and outputs of every decoder layer, in float32; ``choose(n, given)`` sets its input."""
    import torch

    inputs: list[Any] = []
    outputs: list[Any] = []

    def before(number: int) -> Callable[..., Any]:
        def hook(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            given = args[0] if args else named["hidden_states"]
            chosen = choose(number, given).to(given.device, given.dtype)
            inputs.append(chosen.float().clone())
            if args:
                return (chosen, *args[1:]), named
            return args, {**named, "hidden_states": chosen}

        return hook

    def after(_: Any, __: Any, output: Any) -> None:
        outputs.append((output[0] if isinstance(output, tuple) else output).float().clone())

    layers = decoder_layers(model)
    hooks = [layer.register_forward_pre_hook(before(n), with_kwargs=True) for n, layer in enumerate(layers)]
    hooks += [layer.register_forward_hook(after) for layer in layers]
    with removed_after(hooks), torch.inference_mode():
        model(input_ids=torch.tensor([list(ids[:TOKENS])], device=input_device(model)), use_cache=False)
    return inputs, outputs
