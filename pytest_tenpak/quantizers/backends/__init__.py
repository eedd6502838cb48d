"""One module a library: what speaks to it, inside a worker process."""
