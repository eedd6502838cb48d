"""One case from marker to outcome, and one run of cases. Neither imports pytest nor torch."""
