"""AWQ: Lin et al. (arXiv 2306.00978), through GPTQModel or AutoAWQ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..errors import SpecError
from ..models.model import Model
from ..spec import Option, QuantizeSpec
from . import calibration
from .backends import autoawq, gptqmodel
from .base import Backend
from .grouped import Adapter, Grouped, options_for
from .kernels import Kernel
from .shared_options import FOUR_BITS


class Awq(Grouped):
    """Weights are rounded after scaling up the channels that matter most for the activations."""

    method = "awq"
    moves_scales = True
    backends = (
        Backend("gptqmodel", ("gptqmodel",), "pip install 'pytest-tenpak[gptqmodel]'", adapter_version=2),
        Backend(
            "autoawq",
            ("autoawq",),
            "pip install 'pytest-tenpak[autoawq]' (archived upstream), "
            'or name an environment that has it: tenpak_python = {"autoawq": "PATH/bin/python"}',
            adapter_version=2,
        ),
    )
    kernels: ClassVar[Mapping[str, Mapping[str, Kernel]]] = {
        "gptqmodel": gptqmodel.AWQ_KERNELS,
        "autoawq": autoawq.KERNELS,
    }
    options = (
        *options_for(kernels),
        FOUR_BITS,
        Option("zero_point", bool, True, "asymmetric, with zero points"),
        Option("version", str, "gemm", "layout of the codes", choices=("gemm", "gemv", "gemv_fast")),
        Option("clip", bool, True, "search for clipping too; slow on CPU"),
        *calibration.OPTIONS,
    )

    def check(self, spec: QuantizeSpec, model: Model, device: str, dtype: str) -> None:
        """Refuse also layouts that the backend does not write or the device cannot read."""
        super().check(spec, model, device, dtype)
        if spec.options["backend"] == autoawq.NAME:
            autoawq.require_options(spec, device)
        elif spec.options["version"] != "gemm":
            raise SpecError(
                f"the kernels of {spec.options['backend']} read only version 'gemm'",
                given=f"version={spec.options['version']!r}",
                accepted="'gemm'",
                remedy=f"leave version out, or use backend={autoawq.NAME!r}",
            )

    def adapters(self) -> Mapping[str, Adapter]:
        """Return the adapters of GPTQModel and of its predecessor AutoAWQ."""
        return {"gptqmodel": gptqmodel, "autoawq": autoawq}
