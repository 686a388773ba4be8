"""Images: CIFAR-10, image folders and synthetic shapes, written as a prepared set."""
