"""A device that stands for a GPU where there is none: torch's ``meta``, which computes shapes and no values.

What a real GPU punishes by waiting is counted here: asking a tensor for its values, and downloads. What it
punishes by an error that no CPU shows, an operation on tensors of both devices, is one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
#: Operations whose result, or its shape, depends on values: the host waits for them.
ASKING = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"}
COPYING = {"_to_copy", "to", "copy_"}


class OtherDevice(TorchDispatchMode):
    """Within this context, tensors of ``meta`` may be downloaded, as zeros, and asked whether they are true."""

    def __init__(self) -> None:
        super().__init__()
        self.downloads = 0
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in tensors if tensor.device == DEVICE]
        if there:
            name = func.overloadpacket.__name__
            if name in ASKING:
                self.asked.append(name)
            if name == "is_nonzero":
                return True
            if name == "copy_" and args[0].device != DEVICE:
                self.downloads += 1
                return args[0].zero_()
            if name in COPYING:
                if torch.device("cpu") in tree_leaves((args, kwargs)):
                    self.downloads += 1
                    return torch.zeros(there[0].shape, dtype=there[0].dtype)
            else:
                mixed = [tensor for tensor in tensors if tensor.device != DEVICE and tensor.dim()]
                assert not mixed, f"{name} gets tensors of both devices"
        return func(*args, **kwargs)
