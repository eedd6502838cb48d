"""Progress of a quantizer through the decoder layers of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..models.decoder import decoder_layers, removed_after
from ..progress import Progress


@contextmanager
def follow(model: Any, progress: Progress) -> Iterator[None]:
    """Report finished layers while a backend processes them.

    Backends process the layers in order and run each many times, so the first call of a layer means that
    those before it are done. An early call of a layer, to record its inputs, advances the count only once.
    """
    layers = decoder_layers(model)
    total = len(layers)
    furthest = 0

    def watch(number: int) -> Any:
        def called(*_: Any) -> None:
            nonlocal furthest
            if number == furthest + 1:
                furthest = number
                progress(number, total, "layers")

        return called

    hooks = [layer.register_forward_pre_hook(watch(number)) for number, layer in enumerate(layers)]
    progress(0, total, "layers")
    with removed_after(hooks):
        yield
    progress(total, total, "layers")
