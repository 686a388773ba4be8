"""Image networks on the same core; they follow in a later release."""
