"""For tests of processes: what they are forked from is itself forked, from what has its imports."""

import pytest


@pytest.fixture(autouse=True)
def _templates_start_at_once(warm_jobs):
    """For all tests alike: a template whose environment is another test's would be started anew."""
