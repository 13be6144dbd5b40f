"""Quality of restored images: tables of torchmetrics image metrics, gradients and power spectra."""

from typing import TYPE_CHECKING

from callbacks.late_imports import imported_late

if TYPE_CHECKING:
    from callbacks.image_quality.no_reference import NoReferenceMetrics as NoReferenceMetrics
    from callbacks.image_quality.sharpness import Sharpness as Sharpness
    from callbacks.image_quality.table import ImageMetricsTable as ImageMetricsTable

__all__ = ["ImageMetricsTable", "NoReferenceMetrics", "Sharpness"]

__getattr__ = imported_late(
    __name__, {"ImageMetricsTable": "table", "NoReferenceMetrics": "no_reference", "Sharpness": "sharpness"}
)
