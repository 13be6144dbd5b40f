"""Baselines shared by several fields."""

from lightning_modules.baselines.bm3d import BM3D
from lightning_modules.baselines.cross_entropy import CrossEntropy
from lightning_modules.baselines.deep_image_prior import DeepImagePrior
from lightning_modules.baselines.noise2noise import Noise2Noise
from lightning_modules.baselines.noise2self import Noise2Self
from lightning_modules.baselines.noise2void import Noise2Void
from lightning_modules.baselines.ood_scores import OODScores
from lightning_modules.baselines.segmentation_cross_entropy import SegmentationCrossEntropy
from lightning_modules.baselines.self2self import Self2Self
from lightning_modules.baselines.simclr import SimCLR
from lightning_modules.baselines.supervised_restoration import SupervisedRestoration
from lightning_modules.baselines.sure import SURE

__all__ = [
    "BM3D",
    "SURE",
    "CrossEntropy",
    "DeepImagePrior",
    "Noise2Noise",
    "Noise2Self",
    "Noise2Void",
    "OODScores",
    "SegmentationCrossEntropy",
    "Self2Self",
    "SimCLR",
    "SupervisedRestoration",
]
