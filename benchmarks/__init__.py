"""One script for each published number; they import the library, and nothing imports them."""
