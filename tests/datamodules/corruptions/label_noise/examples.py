import numpy as np
import torch
from torch import Tensor

from datamodules.corruptions.label_noise import (
    AsymmetricCIFAR10,
    AsymmetricMNIST,
    BlocksCIFAR100,
    PairFlip,
    SuperclassCIFAR100,
    Symmetric,
)

RATE = 0.4
CLASS_DEPENDENT = [
    (Symmetric(RATE, seed=0), 10),
    (Symmetric(RATE, include_true_class=False, seed=0), 10),
    (AsymmetricCIFAR10(RATE, seed=0), 10),
    (AsymmetricCIFAR10(RATE, sequential_quirk=True, seed=0), 10),
    (AsymmetricMNIST(RATE, seed=0), 10),
    (PairFlip(RATE, seed=0), 7),
    (BlocksCIFAR100(RATE, seed=0), 100),
    (SuperclassCIFAR100(RATE, seed=0), 100),
]


def name(value: object) -> str:
    return type(value).__name__ if not isinstance(value, int) else str(value)


def shuffled_labels(per_class: int, num_classes: int) -> np.ndarray:
    return np.random.default_rng(1).permutation(np.repeat(np.arange(num_classes), per_class))


def images(count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(2).integers(256, size=(count, 3, 4, 4), dtype=np.uint8))
