"""Certification by randomised smoothing: vote statistics, adaptive sample sizes, and vote counting."""

from lightning_modules.robustness.certificates.adaptive_sampling import Anytime, Curve, InputSpecific, Stages
from lightning_modules.robustness.certificates.modes import FixedSampling

__all__ = ["Anytime", "Curve", "FixedSampling", "InputSpecific", "Stages"]
