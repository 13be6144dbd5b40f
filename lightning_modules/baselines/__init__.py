"""Baselines shared by several fields."""

from lightning_modules.baselines.bm3d import BM3D
from lightning_modules.baselines.cross_entropy import CrossEntropy
from lightning_modules.baselines.noise2noise import Noise2Noise
from lightning_modules.baselines.noise2void import Noise2Void
from lightning_modules.baselines.ood_scores import OODScores
from lightning_modules.baselines.segmentation_cross_entropy import SegmentationCrossEntropy
from lightning_modules.baselines.simclr import SimCLR
from lightning_modules.baselines.supervised_restoration import SupervisedRestoration

__all__ = [
    "BM3D",
    "CrossEntropy",
    "Noise2Noise",
    "Noise2Void",
    "OODScores",
    "SegmentationCrossEntropy",
    "SimCLR",
    "SupervisedRestoration",
]
