"""Callbacks that measure the accuracy of classifiers under attack."""

from callbacks.attacks.alpha_curve import AlphaCurve
from callbacks.attacks.robust_accuracy import RobustAccuracy

__all__ = ["AlphaCurve", "RobustAccuracy"]
