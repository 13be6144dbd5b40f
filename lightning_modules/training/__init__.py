"""Shared parts of training and testing: logging, evaluation mode, own dataloaders, requirements, tested images."""
