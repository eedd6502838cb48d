"""The method ``int4``: INT4 in groups, with outliers, scaled inputs and bits spent by Fisher information."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...models.model import Model
from ...spec import Option, QuantizeSpec, for_module
from ..base import Job, Quantizer
from ..calibration import OPTIONS, draw_samples
from ..loading import load_pretrained
from ..normalize import normalize_checkpoint
from ..shared_options import FOUR_BITS, GROUP_SIZE, SKIP_MODULES, require_named
from .allocation import allocate, choices_for
from .matrix import QuantizedMatrix, Recipe, Statistics, quantize_matrix
from .statistics import fisher_information, input_statistics

if TYPE_CHECKING:
    from torch import Tensor

UNIFORM, FISHER = "uniform", "fisher"
#: Fewer samples than methods that solve for each layer: means converge soon.
_SAMPLES = replace(OPTIONS[0], default=16)


class Int4(Quantizer):
    """Every linear layer of the decoder in 4 bits; embeddings, output head and norms stay as they are.

    Where a group does not divide an input width, the last group of each output is shorter.
    """

    method = "int4"
    calibrates = True
    may_change = ()
    options = (
        FOUR_BITS,
        replace(GROUP_SIZE, by_module=True),
        Option("sym", bool, True, "symmetric around zero, without zero points"),
        Option(
            "outlier_fraction",
            float,
            0.0,
            "share of a layer's weights kept in float16, the largest",
            minimum=0,
            maximum=0.1,
            by_module=True,
        ),
        Option("activation_scaling", bool, False, "finer steps for inputs that are large"),
        Option("clip", bool, False, "search each group for a smaller range with less error of its outputs"),
        Option(
            "allocation",
            str,
            UNIFORM,
            "groups and outliers: as given, or the same bits spent where a "
            "Fisher estimate says that it matters",
            choices=(UNIFORM, FISHER),
        ),
        SKIP_MODULES,
        _SAMPLES,
        *OPTIONS[1:],
    )

    def needs_calibration(self, spec: QuantizeSpec) -> bool:
        """Return whether the recipe looks at activations or gradients."""
        options = spec.options
        return bool(options["activation_scaling"] or options["clip"]) or options["allocation"] == FISHER

    def check(self, spec: QuantizeSpec, model: Model, device: str, dtype: str) -> None:  # noqa: ARG002
        """Refuse options by module that leave a layer without a value, or name no layer."""
        named = [name for name in model.widths if not _is_skipped(name, spec)]
        for name in named:
            recipe_for(name, spec, 1)
        for option in self.options if named else ():
            if isinstance(parts := spec.options[option.name], Mapping):
                require_named(option.name, set(parts) - {"*"}, named, "linear layer")

    def quantize(self, job: Job) -> None:
        """Quantize layer by layer and save."""
        from .modules import FORMAT, Int4Config, replace_linear

        # CPUs compute float16 slowly; what is stored and not quantized gets its own type back.
        model = load_pretrained(job.model, job.device, "float32" if job.device == "cpu" else "auto")
        layers = linear_layers(model, job.spec)
        statistics = _calibrate(model, layers, job) if self.needs_calibration(job.spec) else {}
        recipes = _recipes(layers, statistics, job.spec)
        for number, (name, module) in enumerate(layers.items(), start=1):
            found = quantize_matrix(_rows(module), recipes[name], statistics.get(name, Statistics()))
            replace_linear(model, name, found.tensors(), job.model)
            job.progress(number, len(layers), "layers")
        model.config.quantization_config = Int4Config(**_described(job.spec))
        model.quantization_method = FORMAT
        model.save_pretrained(job.out)
        normalize_checkpoint(job.model, job.out)


def linear_layers(model: Any, spec: QuantizeSpec) -> dict[str, Any]:
    """Return the layers to quantize by name: all that are linear but output head and ``skip_modules``."""
    from torch.nn import Linear

    head = model.get_output_embeddings()
    found = {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, Linear) or type(module).__name__ == "Conv1D") and module is not head
    }
    require_named("skip_modules", spec.options["skip_modules"], found, "linear layer")
    return {name: module for name, module in found.items() if not _is_skipped(name, spec)}


def recipe_for(name: str, spec: QuantizeSpec, inputs: int) -> Recipe:
    """Return the recipe of one layer; raise SpecError where an option by module does not name it."""
    options = spec.options
    group = for_module("group_size", options["group_size"], name)
    return Recipe(
        group=inputs if group == -1 else min(group, inputs),
        outliers=for_module("outlier_fraction", options["outlier_fraction"], name),
        sym=options["sym"],
        clip=options["clip"],
        scaled=options["activation_scaling"],
    )


def _is_skipped(name: str, spec: QuantizeSpec) -> bool:
    return any(part in name for part in spec.options["skip_modules"])


def _calibrate(model: Any, layers: Mapping[str, Any], job: Job) -> dict[str, Statistics]:
    options = job.spec.options
    samples = draw_samples(job)
    found = input_statistics(model, layers, samples, job.progress)
    if options["allocation"] == FISHER:
        fisher = fisher_information(model, layers, samples, options["seed"], job.progress)
        found = {name: one._replace(fisher=fisher[name]) for name, one in found.items()}
    return found


def _recipes(
    layers: Mapping[str, Any], statistics: Mapping[str, Statistics], spec: QuantizeSpec
) -> dict[str, Recipe]:
    """Return the recipe of each layer: as given, or the same bits for all together spent by Fisher."""
    rows = {name: _rows(module) for name, module in layers.items()}
    uniform = {name: recipe_for(name, spec, row.shape[1]) for name, row in rows.items()}
    if spec.options["allocation"] == UNIFORM:
        return uniform
    choices = {
        name: choices_for(uniform[name], tuple(row.shape), partial(_loss, row, statistics[name]))
        for name, row in rows.items()
    }
    return allocate(choices, sum(uniform[name].bits(*row.shape) for name, row in rows.items()))


def _loss(rows: Tensor, statistics: Statistics, recipe: Recipe) -> float:
    """Estimate the KL divergence, in nats per token, that quantizing one layer causes."""
    # Scales of inputs are searched for afterwards, and help every choice alike.
    found: QuantizedMatrix = quantize_matrix(rows, replace(recipe, scaled=False), statistics)
    return float(((found.weights() - rows.float()).square() * statistics.fisher).sum()) / 2


def _rows(module: Any) -> Tensor:
    """Return a layer's weights as (outputs, inputs)."""
    weight: Tensor = module.weight.detach()
    return weight.T if type(module).__name__ == "Conv1D" else weight


def _described(spec: QuantizeSpec) -> dict[str, Any]:
    """Return the options that the checkpoint's config records."""
    names = ("bits", "group_size", "sym", "outlier_fraction", "activation_scaling", "clip", "allocation")
    plain: dict[str, Any] = spec.to_dict()["options"]
    return {name: plain[name] for name in names}
