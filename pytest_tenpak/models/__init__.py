"""Directories of weights: found, described, converted, counted. Read by headers; torch only to convert."""
