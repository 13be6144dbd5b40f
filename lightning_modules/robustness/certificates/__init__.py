"""Certificates of randomised smoothing: statistics of votes, how many are drawn, and how they are drawn."""

from lightning_modules.robustness.certificates.fewer_draws import Anytime, Curve, InputSpecific, Stages
from lightning_modules.robustness.certificates.modes import Fixed

__all__ = ["Anytime", "Curve", "Fixed", "InputSpecific", "Stages"]
