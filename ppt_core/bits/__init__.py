"""Bits in place of numbers: packing them, and the products that training computes on them."""
