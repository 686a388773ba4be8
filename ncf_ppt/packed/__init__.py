"""A trained binarized NCF network as an artefact that runs on bits: packed, verified, stored, scored with."""
