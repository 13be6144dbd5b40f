"""Training on noisy copies of images, for smoothed classifiers."""
