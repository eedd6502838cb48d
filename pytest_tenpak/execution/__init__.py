"""Where a job runs: a process of its own, seen from pytest's side and from inside."""
