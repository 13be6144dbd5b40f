"""Check training labels by the predictions of a trained network."""

from typing import TYPE_CHECKING

from callbacks.late_imports import imported_late

if TYPE_CHECKING:
    from callbacks.labels.find import find_label_errors as find_label_errors
    from callbacks.labels.memorization import Memorization as Memorization
    from callbacks.labels.report import LabelReport as LabelReport

__all__ = ["LabelReport", "Memorization", "find_label_errors"]

__getattr__ = imported_late(
    __name__, {"LabelReport": "report", "Memorization": "memorization", "find_label_errors": "find"}
)
