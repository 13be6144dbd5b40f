"""ADELE: adaptive early-learning correction for segmentation from noisy annotations."""

from lightning_modules.noisy_labels.adele.correction import EvaluationPassCorrection, TrainingPassCorrection
from lightning_modules.noisy_labels.adele.module import ADELE

__all__ = ["ADELE", "EvaluationPassCorrection", "TrainingPassCorrection"]
