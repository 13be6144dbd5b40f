"""Watching how training fits given and true labels, and where early learning ends."""

from callbacks.early_learning.watch import EarlyLearning

__all__ = ["EarlyLearning"]
