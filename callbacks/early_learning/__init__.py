"""Track how well training predictions agree with given and true labels, and detect the end of early learning."""

from callbacks.early_learning.watch import EarlyLearning

__all__ = ["EarlyLearning"]
