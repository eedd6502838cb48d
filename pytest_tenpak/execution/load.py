"""Loading what a job names, in its process: a checkpoint by its quantizer, anything else by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ..quantizers.loading import load_with_account
from ..quantizers.locate import Place, relocate
from ..spec import QuantizeSpec


class Loaded(NamedTuple):
    """A model, the distribution that loaded it, and the tensors of its files that were not read."""

    model: Any
    loader: str
    unread: list[str]


def load_subject(
    directory: Path, quantizer: Place | None, spec: QuantizeSpec, device: str, dtype: str
) -> Loaded:
    """Load the model in ``directory``; raises what the quantizer's loader, or transformers', raises."""
    if quantizer is not None:
        method = relocate(quantizer)
        return Loaded(method.load(spec, directory, device, dtype), method.loader(spec), [])
    model, unread = load_with_account(directory, device, dtype)
    return Loaded(model, "transformers", unread)
