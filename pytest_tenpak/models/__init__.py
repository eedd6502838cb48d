"""Directories of weights: located, described, converted, counted. Only conversion needs torch."""
