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


class Download:
    """Tensors by name on their way to the host."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        import torch

        self._tensors = {name: _begin(tensor) for name, tensor in tensors.items()}
        #: By GPU: each has a stream of its own, and that of the first is not the one of the others.
        gpus = {tensor.device for tensor in tensors.values() if tensor.is_cuda}
        self._arrived = [torch.cuda.current_stream(gpu).record_event() for gpu in gpus]

    def wait(self) -> Mapping[str, Any]:
        """Return the tensors once all have arrived."""
        for event in self._arrived:
            event.synchronize()
        return self._tensors


def _begin(tensor: Any) -> Any:
    import torch

    if not tensor.is_cuda:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _type_of(device: Any) -> str:
    return str(device).partition(":")[0]
