"""Annotation-efficient segmentation: no annotated image, but shapes of the structure that belong to no image."""

from lightning_modules.noisy_labels.annotation_efficient.module import AnnotationEfficient
from lightning_modules.noisy_labels.annotation_efficient.translation import Translation

__all__ = ["AnnotationEfficient", "Translation"]
