"""Measure the quality of restored images: tables of image metrics, gradients, power spectra and top-1 accuracy."""

from typing import TYPE_CHECKING

from callbacks.late_imports import imported_late

if TYPE_CHECKING:
    from callbacks.image_quality.no_reference import NoReferenceMetrics as NoReferenceMetrics
    from callbacks.image_quality.sharpness import Sharpness as Sharpness
    from callbacks.image_quality.table import ImageMetricsTable as ImageMetricsTable
    from callbacks.image_quality.top_one_accuracy import TopOneAccuracy as TopOneAccuracy

__all__ = ["ImageMetricsTable", "NoReferenceMetrics", "Sharpness", "TopOneAccuracy"]

__getattr__ = imported_late(
    __name__,
    {
        "ImageMetricsTable": "table",
        "NoReferenceMetrics": "no_reference",
        "Sharpness": "sharpness",
        "TopOneAccuracy": "top_one_accuracy",
    },
)
