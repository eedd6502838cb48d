"""A pytest plugin and regression gate for quantized language models."""
