"""Helpers for training and testing: logging, evaluation mode, users' DataLoaders, required settings, test images."""
