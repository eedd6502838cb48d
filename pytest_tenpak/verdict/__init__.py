"""Figures in, decisions out: criteria, checks, evidence, and what a run may do to a baseline. Pure."""
