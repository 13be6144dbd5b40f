"""Out-of-distribution and adversarial inputs found by the Mahalanobis distance of their features to the class means."""

from lightning_modules.robustness.mahalanobis.module import Mahalanobis

__all__ = ["Mahalanobis"]
