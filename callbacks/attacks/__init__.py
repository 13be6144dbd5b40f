"""Accuracy of classifiers that are attacked."""

from callbacks.attacks.alpha_curve import AlphaCurve
from callbacks.attacks.robust_accuracy import RobustAccuracy

__all__ = ["AlphaCurve", "RobustAccuracy"]
