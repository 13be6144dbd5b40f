"""Label noise: wrong class labels with known statistics.

A kind of noise maps the true labels y of a whole dataset to given labels y~ and knows its transition matrix

    T_ij = P(y~ = j | y = i).

The given labels are a function of the seed and the data only, and the same on every rank and machine: random numbers
come from NumPy, one stream per kind and seed, never from torch. A configuration selects a kind by its class path:

    label_noise:
      class_path: datamodules.corruptions.label_noise.Symmetric
      init_args: {noise_rate: 0.4}
"""

from datamodules.corruptions.label_noise.class_dependent import (
    CIFAR100_SUPERCLASSES,
    AsymmetricCIFAR10,
    AsymmetricMNIST,
    BlocksCIFAR100,
    PairFlip,
    SuperclassCIFAR100,
    Symmetric,
    cifar100_superclass,
)
from datamodules.corruptions.label_noise.instance_dependent import InstanceDependent
from datamodules.corruptions.label_noise.interface import LabelNoise, empirical_transition_matrix
from datamodules.corruptions.label_noise.recorded import FromCSV, HumanCIFARN

__all__ = [
    "CIFAR100_SUPERCLASSES",
    "AsymmetricCIFAR10",
    "AsymmetricMNIST",
    "BlocksCIFAR100",
    "FromCSV",
    "HumanCIFARN",
    "InstanceDependent",
    "LabelNoise",
    "PairFlip",
    "SuperclassCIFAR100",
    "Symmetric",
    "cifar100_superclass",
    "empirical_transition_matrix",
]
