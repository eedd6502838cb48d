"""Measuring: the corpus, perplexity by window, and the ledger of bytes."""
