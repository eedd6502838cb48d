"""The cache and its tools: content-addressed entries, locks, atomic files, digests, strict JSON."""
