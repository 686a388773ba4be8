"""The commands of `ppt-vision`."""
