"""A trained binarized image network as an artefact that runs on bits: packed, verified, stored."""
