"""Certified radii of smoothed classifiers, with a callback, a log and curves."""

from typing import TYPE_CHECKING

from callbacks.late_imports import imported_late

if TYPE_CHECKING:
    from callbacks.certification.certify import Certification as Certification

__all__ = ["Certification"]

__getattr__ = imported_late(__name__, {"Certification": "certify"})
