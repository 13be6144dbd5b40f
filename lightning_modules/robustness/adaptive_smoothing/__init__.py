"""Adaptive smoothing: an accurate and a robust classifier, mixed with a weight that is learned for each image."""

from lightning_modules.robustness.adaptive_smoothing.mixture import MixingPerceptron, MixingResNet, Mixture
from lightning_modules.robustness.adaptive_smoothing.module import AdaptiveSmoothing

__all__ = ["AdaptiveSmoothing", "MixingPerceptron", "MixingResNet", "Mixture"]
