"""Interface, random streams and label checks that are common to all label noise models."""

import zlib
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least, within


class LabelNoise(Protocol):
    """Interface of label noise, as used by DataModules."""

    seed: int | None
    """Seed of the noise. None means the seed of the DataModule. Recorded labels do not use a seed."""

    def apply(self, label: np.ndarray | Tensor, num_classes: int, image: Tensor | None = None) -> Tensor:
        """Return the given label of every sample of a dataset.

        Args:
            label: true labels, `[N]`, integers in 0 ... `num_classes` - 1, in dataset order. The argument is not
                modified.
            num_classes: number of classes, K.
            image: images `[N, C, H, W]`, float in [0, 1] or uint8 in 0 ... 255. Only instance-dependent noise uses the
                images.

        Returns:
            Given labels, `[N]`, int64, on the CPU.

        Raises:
            ValueError: if a label is out of range, if the noise model is not defined for `num_classes`, or if the noise
                model requires a seed and `seed` is None.
        """
        ...

    def transition_matrix(self, num_classes: int) -> Tensor:
        """Return the transition matrix T of `apply`, `[K, K]`, float64, as the average over all seeds.

        The rows of T sum to 1.
        """
        ...


def empirical_transition_matrix(clean: np.ndarray | Tensor, given: np.ndarray | Tensor, num_classes: int) -> Tensor:
    """Compute, for each true class, the relative frequencies of the given labels.

    Args:
        clean: true labels, `[N]`.
        given: given labels, `[N]`.
        num_classes: number of classes, K.

    Returns:
        Matrix of frequencies, `[K, K]`, float64. Rows of classes without samples are NaN.
    """
    true, noisy = checked_labels(clean, num_classes, "clean"), checked_labels(given, num_classes, "given")
    if len(true) != len(noisy):
        raise ValueError(f"clean and given must have the same length, got {len(true)} and {len(noisy)}")
    count = np.bincount(true * num_classes + noisy, minlength=num_classes**2).reshape(num_classes, num_classes)
    matrix = torch.from_numpy(count).double()
    return matrix / matrix.sum(dim=1, keepdim=True)


def checked_labels(label: np.ndarray | Tensor, num_classes: int, name: str = "label") -> np.ndarray:
    """Check the range of labels, and return a copy of them as int64, `[N]`.

    Args:
        label: labels, `[N]`, of any integer type.
        num_classes: number of classes, K.
        name: name of the argument, for error messages.
    """
    check_num_classes(num_classes)
    array = label.detach().cpu().numpy() if isinstance(label, Tensor) else np.asarray(label)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be one integer per sample, got {array.dtype} of shape {list(array.shape)}")
    outside = array[(array < 0) | (array >= num_classes)]
    if len(outside):
        raise ValueError(f"{name} must be in 0 ... {num_classes - 1}, got {outside[0]} ({len(outside)} out of range)")
    return array.astype(np.int64)


def check_num_classes(num_classes: int) -> None:
    """Reject a dataset with a single class, in which no label can be wrong."""
    at_least(2, num_classes=num_classes)


def check_arguments(noise_rate: float, seed: int | None) -> None:
    """Reject a rate outside [0, 1) and a negative seed."""
    within(0, 1, "[)", noise_rate=noise_rate)
    if seed is not None and seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")


def random_stream(seed: int | None, kind: str, *part: int) -> np.random.Generator:
    """Return the random number generator of a noise model or of one of its parts.

    The generators of different models and parts are independent of each other.

    Parts are numbered from 1. Because NumPy pads seeds with zeros, part 0 would have the same generator as the whole
    model.

    Raises:
        ValueError: if `seed` is None.
    """
    if seed is None:
        raise ValueError(f"seed of {kind} is not set: set it, or set seed_everything on the command line")
    return np.random.default_rng([seed, zlib.crc32(kind.encode()), *part])
