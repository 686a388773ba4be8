"""One module for each command of `ppt-ncf`."""
