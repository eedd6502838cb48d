"""GPTQ: Frantar et al. (arXiv 2210.17323), through GPTQModel or AutoGPTQ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..spec import Option
from . import calibration
from .backends import auto_gptq, gptqmodel
from .base import Backend
from .grouped import Adapter, Grouped, options_for
from .kernels import Kernel


class Gptq(Grouped):
    """Weights are quantized column by column, and the following columns compensate each column's error."""

    method = "gptq"
    backends = (
        Backend(
            "gptqmodel",
            ("gptqmodel", "optimum"),
            "pip install 'pytest-tenpak[gptqmodel]'",
            adapter_version=2,
        ),
        Backend(
            "auto-gptq",
            ("auto-gptq",),
            "pip install 'pytest-tenpak[auto-gptq]' (Python 3.11 at most; archived upstream), "
            'or name an environment that has it: tenpak_python = {"auto-gptq": "PATH/bin/python"}',
            adapter_version=2,
        ),
    )
    kernels: ClassVar[Mapping[str, Mapping[str, Kernel]]] = {
        "gptqmodel": gptqmodel.GPTQ_KERNELS,
        "auto-gptq": auto_gptq.KERNELS,
    }
    options = (
        *options_for(kernels),
        Option("bits", int, 4, "bits of a code", choices=(2, 3, 4, 8)),
        Option("sym", bool, True, "symmetric around zero, without zero points"),
        Option("desc_act", bool, False, "columns in order of their activations, largest first"),
        Option(
            "damp_percent",
            float,
            0.01,
            "damping, as a share of the Hessian's mean diagonal",
            above=0,
            below=1,
        ),
        *calibration.OPTIONS,
    )

    def adapters(self) -> Mapping[str, Adapter]:
        """Return the adapters of GPTQModel and of its predecessor AutoGPTQ."""
        return {"gptqmodel": gptqmodel, "auto-gptq": auto_gptq}
