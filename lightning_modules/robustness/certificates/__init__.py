"""Certification by randomised smoothing: statistics of votes, adaptive numbers of samples, and counting of votes."""

from lightning_modules.robustness.certificates.adaptive_sampling import Anytime, Curve, InputSpecific, Stages
from lightning_modules.robustness.certificates.modes import FixedSampling, MeanProbability
from lightning_modules.robustness.certificates.votes import certify

__all__ = ["Anytime", "Curve", "FixedSampling", "InputSpecific", "MeanProbability", "Stages", "certify"]
