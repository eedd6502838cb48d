"""The layer that computes with packed weights, and its registration with transformers.

Torch's and transformers' classes are derived from here, so this module is imported only where these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear
from transformers.quantizers import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ...errors import CheckpointError
from ...models.safetensors_files import read_tensors
from .grid import dequantize, unpack
from .matrix import Outliers, assemble

#: ``quant_method`` in the config of a checkpoint.
FORMAT = "tenpak-int4"
_TYPES = {"U8": torch.uint8, "I16": torch.int16, "I32": torch.int32, "F16": torch.float16}


class Int4Linear(torch.nn.Module):  # type: ignore[misc]
    """A linear layer with packed weights, which are dequantized for each product.

    Buffers are the tensors of a :class:`~.matrix.QuantizedMatrix`; ``bias`` is a parameter, or None.
    """

    def __init__(self, inputs: int, outputs: int, tensors: Mapping[str, Any], bias: Any = None) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.bias = bias
        self._names = tuple(tensors)
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self._group = 0

    def _part(self, name: str) -> Any:
        return getattr(self, name) if name in self._names else None

    def dequantized(self) -> Any:
        """Return the weights, float32 (outputs, inputs)."""
        self._group = self._group or int(self.layout[1])  # read once: on a GPU that waits for it
        zeros = self._part("zeros")
        if zeros is not None:
            zeros = unpack(zeros, self.scales.shape[1])
        weights = dequantize(unpack(self.codes, self.in_features), self.scales, zeros, self._group)
        outliers = None
        if self._part("outlier_starts") is not None:
            outliers = Outliers(self.outlier_starts, self.outlier_columns, self.outlier_values)
        return assemble(weights, self._part("input_scales"), outliers)

    @property
    def weight(self) -> Any:
        """The dequantized weights, a copy: some models look at their layers' weights."""
        return self.dequantized()

    def forward(self, states: Any) -> Any:
        """Return states (…, inputs) · weightsᵀ + bias, in the states' own type."""
        return linear(states, self.dequantized().to(states.dtype), self.bias)

    def extra_repr(self) -> str:
        """Describe the layer in a printed model."""
        return f"{self.in_features}, {self.out_features}, {', '.join(sorted(self._names))}"


@register_quantization_config(FORMAT)
class Int4Config(QuantizationConfigMixin):  # type: ignore[misc]
    """The recipe, as config.json records it; what is needed to load a layer is stored with the layer."""

    def __init__(self, **recipe: Any) -> None:
        self.quant_method = FORMAT
        recipe.pop("quant_method", None)
        self.recipe = recipe

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form."""
        return {**self.recipe, "quant_method": FORMAT}


@register_quantizer(FORMAT)
class Int4Loader(HfQuantizer):  # type: ignore[misc]
    """Has ``from_pretrained`` put packed layers where the checkpoint has them."""

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Any = None, **_: Any
    ) -> None:
        folder = Path(checkpoint_files[0]).parent
        stored = read_tensors(folder)
        for layer in sorted(n.removesuffix(".codes") for n in stored if n.endswith(".codes")):
            parts = {
                name.removeprefix(f"{layer}."): torch.empty(
                    tensor.shape, dtype=_TYPES.get(tensor.dtype, torch.float32), device="meta"
                )
                for name, tensor in stored.items()
                if name.startswith(f"{layer}.") and not name.endswith(".bias")
            }
            replace_linear(model, layer, parts, folder)

    def is_serializable(self) -> bool:
        """Return True: a loaded model can be saved again."""
        return True

    @property
    def is_trainable(self) -> bool:
        """False: codes have no gradients."""
        return False


def replace_linear(model: Any, layer: str, tensors: Mapping[str, Any], source: Any) -> None:
    """Put packed weights where a model has a linear layer; raise CheckpointError where it has none."""
    from ..shapes import widths

    parent, _, name = layer.rpartition(".")
    try:
        owner = model.get_submodule(parent)
        linear_layer = getattr(owner, name)
        inputs, outputs = widths(linear_layer)
    except (AttributeError, ValueError) as fault:
        raise CheckpointError(
            f"{source} has quantized weights for which the model has no linear layer",
            given=layer,
            accepted="the names of the model's linear layers",
            remedy="quantize with the transformers that loads it, or restore config.json",
        ) from fault
    setattr(owner, name, Int4Linear(inputs, outputs, tensors, linear_layer.bias))
