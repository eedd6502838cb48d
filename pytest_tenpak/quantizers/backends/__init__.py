"""Adapters that call the backend libraries inside a worker process, one module per library."""
