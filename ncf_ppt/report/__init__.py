"""What a reader wants to know of trained networks, on one page."""
