"""Image networks (ResNet-20, VGG-16, ResNet-34), binarized by partial pre-training."""
