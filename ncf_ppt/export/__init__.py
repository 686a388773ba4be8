"""Trained networks in the formats of other programs: vectors by their ids, and ONNX."""
