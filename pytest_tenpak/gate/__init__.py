"""One case from marker to outcome, and one run of cases. No pytest, no torch."""
