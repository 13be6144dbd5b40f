"""Helpers for training and testing: logging, evaluation mode, your own DataLoaders, required settings, test images."""
