"""Class-dependent label noise: symmetric noise, and flips between similar classes."""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from datamodules.corruptions.label_noise.interface import (
    check_arguments,
    check_num_classes,
    checked_labels,
    random_stream,
)


class Symmetric:
    """Replace the labels of exactly ceil(r N) random samples by uniformly sampled classes.

    There are two definitions of symmetric noise, which differ most at high rates. The new class is sampled

    - from all K classes, including the true class, so that r (1 - 1/K) of the labels are wrong, as in the code of ELR,
      DivideMix, NMTune and PLS (DivideMix replaces floor(r N) labels, and PLS decides independently for each sample);
    - from the K - 1 other classes, so that r of the labels are wrong, as in the code of Patrini et al. (2017) and of
      Co-teaching, which both decide independently per sample.

    Args:
        noise_rate: r, fraction of samples whose label is replaced, in [0, 1).
        include_true_class: whether the new label may be the true class.
        seed: seed of the noise. None means the value of `seed_everything`.
    """

    def __init__(self, noise_rate: float, include_true_class: bool = True, seed: int | None = None) -> None:
        check_arguments(noise_rate, seed)
        self.noise_rate = noise_rate
        self.include_true_class = include_true_class
        self.seed = seed

    def apply(self, label: np.ndarray | Tensor, num_classes: int, image: Tensor | None = None) -> Tensor:
        given = checked_labels(label, num_classes)
        random = random_stream(self.seed, "Symmetric")
        chosen = random.permutation(len(given))[: rounded_up(self.noise_rate, len(given))]
        if self.include_true_class:
            given[chosen] = random.integers(num_classes, size=len(chosen))
        else:
            given[chosen] = (given[chosen] + random.integers(1, num_classes, size=len(chosen))) % num_classes
        return torch.from_numpy(given)

    def transition_matrix(self, num_classes: int) -> Tensor:
        check_num_classes(num_classes)
        off_diagonal = self.noise_rate / (num_classes if self.include_true_class else num_classes - 1)
        matrix = torch.full((num_classes, num_classes), off_diagonal, dtype=torch.float64)
        return matrix.fill_diagonal_(1 - (num_classes - 1) * off_diagonal)


class AsymmetricCIFAR10:
    """Flip similar CIFAR-10 classes: truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog.

    In a source class with n samples, exactly ceil(r n) labels flip, as in ELR's code. In Patrini's code, by contrast,
    each label flips independently. DivideMix selects floor(r N) samples from the whole dataset, and flips the labels of
    those samples that belong to source classes.

    ELR's code flips the labels in place, one class after another. Labels that were flipped from cat to dog are
    therefore treated as dogs when dogs are flipped, and a fraction r of these labels flips back. As a result, the rate
    of cat -> dog is r (1 - r). `sequential_quirk` reproduces this behaviour.

    Source: Patrini et al., Making Deep Neural Networks Robust to Label Noise, CVPR 2017, arXiv 1609.03683.

    Args:
        noise_rate: fraction r of labels that flip in each source class, in [0, 1).
        sequential_quirk: whether to flip labels in place, class by class, as ELR's code does. Otherwise, all flips are
            based on the true labels.
        seed: seed of the noise. None means the value of `seed_everything`.
    """

    flips = ((2, 0), (3, 5), (4, 7), (5, 3), (9, 1))
    """Source and target classes, in the order of ELR's code."""

    def __init__(self, noise_rate: float, sequential_quirk: bool = False, seed: int | None = None) -> None:
        check_arguments(noise_rate, seed)
        self.noise_rate = noise_rate
        self.sequential_quirk = sequential_quirk
        self.seed = seed

    def apply(self, label: np.ndarray | Tensor, num_classes: int, image: Tensor | None = None) -> Tensor:
        check_class_count("AsymmetricCIFAR10", 10, num_classes)
        given = checked_labels(label, num_classes)
        current = given if self.sequential_quirk else given.copy()
        random = random_stream(self.seed, "AsymmetricCIFAR10")
        for source, target in self.flips:
            members = random.permutation(np.flatnonzero(current == source))
            given[members[: rounded_up(self.noise_rate, len(members))]] = target
        return torch.from_numpy(given)

    def transition_matrix(self, num_classes: int) -> Tensor:
        check_class_count("AsymmetricCIFAR10", 10, num_classes)
        target = np.arange(10)
        for source, other in self.flips:
            target[source] = other
        matrix = flip_matrix(target, self.noise_rate)
        if self.sequential_quirk:
            cat, dog = 3, 5
            matrix[cat, dog] = self.noise_rate * (1 - self.noise_rate)
            matrix[cat, cat] = 1 - matrix[cat, dog]
        return matrix


def rounded_up(noise_rate: float, count: int) -> int:
    """Return ceil(r N) for the decimal rate r, without rounding errors.

    For example, r = 0.07 and N = 50,000 give 3,500 and not 3,501.
    """
    return math.ceil(round(noise_rate * count, 6))


def flip_matrix(target: np.ndarray, noise_rate: float) -> Tensor:
    """Return the transition matrix, `[K, K]`, float64, of flips k -> `target[k]` that have probability `noise_rate`.

    Args:
        target: class that the labels of each class flip to, `[K]`, int64. If a class is its own target, its labels are
            not changed.
        noise_rate: r, in [0, 1].
    """
    matrix = torch.eye(len(target), dtype=torch.float64) * (1 - noise_rate)
    matrix[torch.arange(len(target)), torch.from_numpy(target)] += noise_rate
    return matrix


class IndependentFlips(ABC):
    """With probability r, flip a label to the target class of its true class, independently for each sample.

    Subclasses define the target classes.

    Args:
        noise_rate: r, in [0, 1).
        seed: seed of the noise. None means the value of `seed_everything`.
    """

    def __init__(self, noise_rate: float, seed: int | None = None) -> None:
        check_arguments(noise_rate, seed)
        self.noise_rate = noise_rate
        self.seed = seed

    @abstractmethod
    def target(self, num_classes: int) -> np.ndarray:
        """Return, for each class, the class to which its labels flip, `[K]`, int64."""

    def apply(self, label: np.ndarray | Tensor, num_classes: int, image: Tensor | None = None) -> Tensor:
        target = self.target(num_classes)
        clean = checked_labels(label, num_classes)
        flips = random_stream(self.seed, type(self).__name__).random(len(clean)) < self.noise_rate
        return torch.from_numpy(np.where(flips, target[clean], clean))

    def transition_matrix(self, num_classes: int) -> Tensor:
        return flip_matrix(self.target(num_classes), self.noise_rate)


class AsymmetricMNIST(IndependentFlips):
    """Flip labels of digits to those of similar digits: 2 -> 7, 3 -> 8, 5 <-> 6, 7 -> 1.

    Source: Patrini et al., CVPR 2017, arXiv 1609.03683.
    """

    def target(self, num_classes: int) -> np.ndarray:
        check_class_count("AsymmetricMNIST", 10, num_classes)
        return np.array([0, 1, 7, 8, 4, 6, 5, 1, 8, 9])


class PairFlip(IndependentFlips):
    """Flip each class to the next class, k -> k + 1, and the last class to the first.

    If the noise rate r is above 0.5, most labels are wrong. Papers use rates up to 0.45.

    Source: Han et al., Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels, NeurIPS 2018,
    arXiv 1804.06872.
    """

    def target(self, num_classes: int) -> np.ndarray:
        check_num_classes(num_classes)
        return (np.arange(num_classes) + 1) % num_classes


class BlocksCIFAR100(IndependentFlips):
    """Flip each class of CIFAR-100 to the next class within blocks of five consecutive ids, cyclically.

    The code of Patrini et al. (2017) and the code of ELR do this, although the papers describe flips within
    superclasses. Ids are in alphabetical order; the first block, for example, is apple, aquarium fish, baby, bear and
    beaver. The blocks are therefore different from the superclasses. For flips within superclasses, use
    `SuperclassCIFAR100`. ELR's code uses seed 0 for this noise in every run.
    """

    def target(self, num_classes: int) -> np.ndarray:
        check_class_count("BlocksCIFAR100", 100, num_classes)
        return np.roll(np.arange(100).reshape(20, 5), -1, axis=1).ravel()


class SuperclassCIFAR100(IndependentFlips):
    """Flip each class of CIFAR-100 to the next class, by number, of its superclass, and the last one to the first.

    Source: Patrini et al., CVPR 2017, arXiv 1609.03683 (as described in the paper; for the authors' code, see
    `BlocksCIFAR100`).
    """

    def target(self, num_classes: int) -> np.ndarray:
        check_class_count("SuperclassCIFAR100", 100, num_classes)
        members = cifar100_superclass().argsort(kind="stable").reshape(20, 5)
        target = np.empty(100, dtype=np.int64)
        target[members] = np.roll(members, -1, axis=1)
        return target


CIFAR100_SUPERCLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
"""The fine classes of each superclass of CIFAR-100 (Krizhevsky, 2009). An id is a rank in alphabetical order."""


def cifar100_superclass() -> np.ndarray:
    """Return the superclass (0 ... 19) of each fine class of CIFAR-100, `[100]` int64."""
    superclass = {name: i for i, names in enumerate(CIFAR100_SUPERCLASSES.values()) for name in names}
    return np.array([superclass[name] for name in sorted(superclass)])


def check_class_count(kind: str, expected: int, num_classes: int) -> None:
    """Reject a dataset if its number of classes differs from the number for which the kind of noise is defined."""
    if num_classes != expected:
        raise ValueError(f"num_classes must be {expected} for {kind}, got {num_classes}")
