"""Helpers for training and testing: logging, evaluation mode, plain DataLoaders, requirements, single test images."""
