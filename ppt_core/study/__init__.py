"""The evidence for partial pre-training, from one plan of independent trainings."""
