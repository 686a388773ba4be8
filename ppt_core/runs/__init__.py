"""Run folders: the files of a training, its checkpoints, and the training that writes them."""
