"""One run of cases: where each is evaluated, their outcomes, and the baselines that the run writes."""
