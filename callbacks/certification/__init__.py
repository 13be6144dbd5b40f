"""Certify the radii of smoothed classifiers: a callback, its log, and curves of certified accuracy."""

from typing import TYPE_CHECKING

from callbacks.late_imports import imported_late

if TYPE_CHECKING:
    from callbacks.certification.certify import Certification as Certification

__all__ = ["Certification"]

__getattr__ = imported_late(__name__, {"Certification": "certify"})
