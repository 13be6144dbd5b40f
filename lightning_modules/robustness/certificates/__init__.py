"""Certificates of randomised smoothing: statistics of votes, how many are drawn, and how they are drawn."""

from lightning_modules.robustness.certificates.adaptive_sampling import Anytime, Curve, InputSpecific, Stages
from lightning_modules.robustness.certificates.modes import FixedSampling

__all__ = ["Anytime", "Curve", "FixedSampling", "InputSpecific", "Stages"]
