"""Measuring: corpus, protocol, perplexity, divergence, decoder layers, and the trace that stores them."""
