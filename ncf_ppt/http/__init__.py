"""A packed network behind HTTP: a supervisor, a loader for each model, and workers that answer."""
