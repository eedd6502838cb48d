"""Worker processes, which jobs run in: the parent's side and the worker's side."""
