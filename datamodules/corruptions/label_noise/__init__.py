"""Label noise: wrong class labels with known statistics.

A label noise model maps the true labels y of a whole dataset to given (noisy) labels y~. It also defines a transition
matrix T:

    T_ij = P(y~ = j | y = i).

The given labels depend only on the seed and the data, and are the same on every rank and machine. Random numbers
therefore come from NumPy instead of torch, with one random stream for each noise model and seed. A configuration
selects a noise model by its class path:

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
