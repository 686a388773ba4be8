"""Ratings: read from files and archives, filtered, split and written as a prepared set."""
