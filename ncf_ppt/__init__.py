"""Neural collaborative filtering with partially pre-trained binarized networks."""
