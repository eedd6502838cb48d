"""Measurements as plain records, and confidence intervals of their figures. Pure: no files, no torch."""
