"""Shared parts of training: logging, evaluation mode, sampled training images, own dataloaders, requirements."""
