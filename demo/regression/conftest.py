"""A team's own recipe, registered as a method: twenty lines, and the gate covers it like any other."""

from pytest_tenpak import Quantizer, load_pretrained


class HouseRecipe(Quantizer):
    """4 bits by bitsandbytes. The baseline was accepted with "nf4"; somebody has since changed a word."""

    method = "house"
    requires = ("bitsandbytes",)

    def quantize(self, job):
        """Quantize and save."""
        from transformers import BitsAndBytesConfig

        recipe = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4")
        model = load_pretrained(job.model, job.device, "auto", quantization_config=recipe)
        model.save_pretrained(job.out)


def pytest_tenpak_register_quantizers(register):
    """Make ``method="house"`` known."""
    register(HouseRecipe)
