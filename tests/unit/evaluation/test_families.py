"""Families of transformers: what measuring assumes of a model, and what is done where that is not so."""

import json
import subprocess
import sys

import pytest
import torch
from tiny import byte_tokenizer

from pytest_tenpak.evaluation import perplexity
from pytest_tenpak.evaluation.protocol import Protocol

TOKENS = byte_tokenizer()("O, she doth teach the torches to burn bright! " * 6)["input_ids"]


def llama4():
    """Llama 4's text half: its body is named as if a model of several modalities were around it."""
    from transformers import Llama4ForCausalLM, Llama4TextConfig

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "intermediate_size_mlp": 96, "head_dim": 16}
    heads = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 2,
    }
    return Llama4ForCausalLM(Llama4TextConfig(vocab_size=258, **sizes, **heads, pad_token_id=257)).eval()


def test_a_model_without_a_body_of_its_own_is_scored_by_its_logits():
    """As the definition has it: −ln softmax(logits)[target], in float64."""
    model = llama4()
    windows = Protocol.resolve("gptq", 64, None, 256).windows(len(TOKENS))
    scorer = perplexity.Scorer(model, TOKENS)
    assert not scorer.head_is_all
    measured = perplexity.measure_windows(model, TOKENS, windows)
    for window, nll in zip(windows, measured.nll, strict=True):
        ids = torch.tensor([TOKENS[window.start : window.stop]])
        with torch.no_grad():
            logits = model(ids[:, :-1]).logits.double()
        expected = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum")
        assert nll == pytest.approx(float(expected), rel=1e-5)


#: In a process of its own: what quantizers and loaders leave behind in one would be scanned too.
SCAN = """
import json

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pytest_tenpak.models.decoder import decoder_layers

built, lacking = 0, []
for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind]())
    except Exception:  # some need libraries that are not here, or have no default that can be built
        continue
    built += 1
    has = {
        "input embeddings": model.get_input_embeddings() is not None,
        "an output head": model.get_output_embeddings() is not None,
        "decoder layers": len(decoder_layers(model)) > 0,
        "a vocabulary": getattr(model.config.get_text_config(), "vocab_size", 0) > 0,
    }
    lacking += [f"{kind}: {what}" for what, there in has.items() if not there]
print(json.dumps([built, lacking]))
"""


@pytest.mark.slow
def test_every_causal_language_model_of_transformers_has_what_measuring_assumes():
    """Built from its default config, without memory: embeddings, a head, decoder layers; a body, or its own logits."""
    ran = subprocess.run([sys.executable, "-c", SCAN], stdout=subprocess.PIPE, text=True, check=True)
    built, lacking = json.loads(ran.stdout.splitlines()[-1])
    assert built > 150
    assert lacking == []
