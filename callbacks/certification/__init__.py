"""Certified radii of smoothed classifiers: the callback, its log, its curves."""

from callbacks.certification.certify import Certification

__all__ = ["Certification"]
