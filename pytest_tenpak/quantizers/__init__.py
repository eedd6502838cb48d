"""Methods of quantization, their backend libraries, and the interpreters that these are installed in."""
