"""Partial pre-training of binarized networks: knows neither users nor images."""
