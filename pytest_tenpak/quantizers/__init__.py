"""Methods of quantization, the libraries that carry them out, and where those are installed."""
