"""A method of your own: every linear layer rounded to a number of bits, and stored in 16."""

from pytest_tenpak import Option, Quantizer, load_pretrained


class Rounded(Quantizer):
    """Round each row to a symmetric grid of 2^bits - 1 levels."""

    method = "rounded"
    options = (Option("bits", int, 8, "bits of each weight", minimum=2, maximum=8),)

    def quantize(self, job):
        """Round and save; runs in a worker process of its own."""
        import torch

        model = load_pretrained(job.model, job.device, "float16")
        for layer in model.model.layers.modules():
            if isinstance(layer, torch.nn.Linear):
                weight = layer.weight.data.float()
                scale = weight.abs().amax(dim=1, keepdim=True) / (2 ** (job.spec.options["bits"] - 1) - 1)
                layer.weight.data = ((weight / scale).round() * scale).half()
        model.save_pretrained(job.out)


def pytest_tenpak_register_quantizers(register):
    """Make ``method="rounded"`` known."""
    register(Rounded)
