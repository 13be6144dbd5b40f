"""Training on noisy copies of images for randomised smoothing."""
