"""Methods that several fields compare with."""

from lightning_modules.baselines.cross_entropy import CrossEntropy
from lightning_modules.baselines.segmentation_cross_entropy import SegmentationCrossEntropy
from lightning_modules.baselines.simclr import SimCLR

__all__ = ["CrossEntropy", "SegmentationCrossEntropy", "SimCLR"]
