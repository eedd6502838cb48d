"""Tensors between the host and a GPU, without either waiting for the other.

On a CPU nothing is copied, and nothing waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def upload(tensor: Any, device: Any) -> Any:
    """Return a tensor of the host on ``device``; the host goes on before a GPU has copied it."""
    if _type_of(device) != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Landing:
    """Room on the host for figures of so many tokens, which batches fill one after another."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._taken = 0
        #: Figures by name, each (tokens, …).
        self.rows: dict[str, Any] = {}

    def begin(self, figures: Mapping[str, Any]) -> Download:
        """Begin to copy figures of a batch, each (windows, positions, …), behind those of the last one."""
        shape = next(iter(figures.values())).shape[:2]
        places = slice(self._taken, self._taken + shape.numel())
        self._taken = places.stop
        return Download(figures, {name: self._row(name, own)[places] for name, own in figures.items()})

    def _row(self, name: str, figure: Any) -> Any:
        import torch

        if name not in self.rows:
            self.rows[name] = torch.empty(
                (self._tokens, *figure.shape[2:]), dtype=figure.dtype, pin_memory=figure.is_cuda
            )
        return self.rows[name]


class Download:
    """Figures of a batch, by name, on their way to the host."""

    def __init__(self, figures: Mapping[str, Any], places: Mapping[str, Any]) -> None:
        import torch

        self._arriving = {
            name: places[name].view(figure.shape).copy_(figure, non_blocking=True)
            for name, figure in figures.items()
        }
        #: By GPU: each has a stream of its own, and that of the first is not the one of the others.
        gpus = {figure.device for figure in figures.values() if figure.is_cuda}
        self._arrived = [torch.cuda.current_stream(gpu).record_event() for gpu in gpus]

    def wait(self) -> Mapping[str, Any]:
        """Return the figures, each (windows, positions, …), once all have arrived."""
        for event in self._arrived:
            event.synchronize()
        return self._arriving


def _type_of(device: Any) -> str:
    return str(device).partition(":")[0]
