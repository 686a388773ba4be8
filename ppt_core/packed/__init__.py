"""Binarized networks on bits: what follows from a trained network's own modules, without its floats."""
