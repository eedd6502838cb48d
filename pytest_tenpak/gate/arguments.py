"""The table of marker arguments that every method shares; light, since each pytest start reads it."""

from __future__ import annotations

from ..evaluation.corpus import CALIBRATION, DEFAULT
from ..evaluation.protocol import PROTOCOLS
from ..metrics.measurement import HEADLINE, RATIOS
from ..spec import Option

#: Arguments of every marker, beside the options that its method declares.
ARGUMENTS: tuple[Option, ...] = (
    Option("method", str, None, "quantization method, or one that a plugin or conftest registered"),
    Option("checkpoint", str, None, "instead of method: directory of a checkpoint quantized elsewhere"),
    Option("model", str, None, "unquantized model: directory, .gguf file, package:NAME/FILE.gguf, hub id"),
    Option("corpus", str, DEFAULT, "text to measure on: packaged name, file, package:NAME/FILE, hub:…"),
    Option("calibration", str, CALIBRATION, "text to calibrate on, for methods that do; never the corpus"),
    Option("protocol", str, "gptq", "evaluation protocol", choices=PROTOCOLS),
    Option("context", int, None, "tokens per window; default by protocol and model", minimum=2),
    Option("stride", int, None, "tokens between windows, for protocol='sliding'", minimum=1),
    Option("max_tokens", int, 0, "scored tokens at most; 0: the whole corpus", minimum=0),
    Option(
        "dtype",
        str,
        "auto",
        "type to measure in; auto: float32 on CPU, the model's own 16-bit type on CUDA",
        choices=("auto", "float32", "bfloat16", "float16"),
    ),
    Option("max_ppl_delta", float, None, "limit: perplexity over the reference, relative", above=-1),
    Option(
        "max_rtn_factor",
        float,
        3.0,
        "limit: nats per token lost, in multiples of what round-to-nearest at the same bits loses; 0: none",
        minimum=0,
    ),
    Option("max_kld", float, None, "limit: mean KL divergence from the reference, nats per token", minimum=0),
    Option(
        "min_top1",
        float,
        None,
        "limit: share of tokens with the reference's top token, 0 to 1",
        minimum=0,
        maximum=1,
    ),
    Option("min_compression", float, None, f"limit: least compression, {RATIOS[HEADLINE]}", above=0),
    Option("ppl_tolerance", float, 0.005, "perplexity over the baseline, relative", minimum=0),
    Option(
        "same_weights_tolerance",
        float,
        0.001,
        "the same where the quantized weights are the baseline's, bit for bit",
        minimum=0,
    ),
    Option(
        "layers_tolerance",
        float,
        0.03,
        "movement of a decoder layer's gain or error, as a share of what it adds",
        minimum=0,
    ),
    Option("compression_tolerance", float, 0.001, "compression under the baseline, relative", minimum=0),
    Option(
        "drift_limit",
        float,
        3.0,
        "how many tolerances small accepted steps may add up to since the anchor; 0: any number",
        minimum=0,
    ),
    Option("baseline", str, None, "baseline name, when the test's id should not be it"),
    Option("may_skip", bool, False, "skip, even in CI, when a library or device is missing"),
)
