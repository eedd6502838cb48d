"""A report of your own: a row for each gate and text, appended to gates.csv at the end of every run."""

import csv
from pathlib import Path

from pytest_tenpak import Summary

#: Where pytest was started.
TARGET = Path("gates.csv")


def append_rows(summary: Summary) -> None:
    """Append the verdict and the perplexities of every gate, and name the gates that did not run."""
    with TARGET.open("a", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        for outcome in summary.outcomes:
            for part in outcome.parts:
                figures = part.reference.perplexity, part.measurement.perplexity
                rows.writerow([outcome.title, part.corpus, outcome.status, *figures])
            if not outcome.parts:
                rows.writerow([outcome.title, "", outcome.status, "", ""])
        for title in summary.missing:
            rows.writerow([title, "", "did not run", "", ""])


def pytest_tenpak_register_reporters(register):
    """Register the report; called once, when the run has ended."""
    register(append_rows)
