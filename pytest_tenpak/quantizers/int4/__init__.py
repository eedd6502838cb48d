"""Groupwise INT4 of our own, in pure torch: the recipes of TenPak v0.1, and plain rounding to nearest.

``method`` declares it; ``matrix`` quantizes one matrix, out of ``grid`` (codes in groups) and ``scaling``
(scales of inputs); ``statistics`` runs the calibration, ``allocation`` spends a budget of bits by it;
``modules`` computes with the packed weights, and has transformers load them.
"""
