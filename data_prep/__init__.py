"""Raw ratings and images in, the prepared sets that training reads out."""
