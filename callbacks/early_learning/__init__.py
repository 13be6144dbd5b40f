"""Track how training fits given and true labels, and detect where early learning ends."""

from callbacks.early_learning.watch import EarlyLearning

__all__ = ["EarlyLearning"]
