"""Plain rounding as a method of its own, so that it is saved, loaded back and measured like every other."""

from pytest_tenpak import Option, Quantizer, load_pretrained
from pytest_tenpak.quantizers.rounding import round_to_nearest


class RoundToNearest(Quantizer):
    """The layers that the other methods quantize, rounded to nearest and saved unpacked."""

    method = "round-to-nearest"
    options = (
        Option("bits", int, 4, "bits of a code", choices=(2, 3, 4, 8)),
        Option("group_size", int, 64, "weights that share a scale", minimum=-1),
    )

    def quantize(self, job):
        """Round and save."""
        model = load_pretrained(job.model, job.device, "auto")
        linear = {name for name, module in model.named_modules() if type(module).__name__ == "Linear"}
        round_to_nearest(model, linear - {"lm_head"}, **job.spec.options)
        model.save_pretrained(job.out)


def pytest_tenpak_register_quantizers(register):
    """Make ``method="round-to-nearest"`` known."""
    register(RoundToNearest)
