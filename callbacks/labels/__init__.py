"""What a trained network says of the labels that it was trained on."""

from callbacks.labels.memorization import Memorization
from callbacks.labels.report import LabelReport

__all__ = ["LabelReport", "Memorization"]
