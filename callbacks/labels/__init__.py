"""Judging the labels that a network was trained on by its own predictions."""

from callbacks.labels.memorization import Memorization
from callbacks.labels.report import LabelReport

__all__ = ["LabelReport", "Memorization"]
