"""Instance-dependent label noise.

A random linear classifier chooses the wrong class from the image.

The label y of an image x flips with probability q. For each image, q is sampled from N(r, 0.1^2), truncated to [0, 1].
A flipped label becomes class j != y with probability

    softmax_j(x W_y),    W_y ~ N(0, 1)^{features x K}, one matrix per true class y.

Source: Xia et al., Part-dependent Label Noise: Towards Instance-dependent Label Noise, NeurIPS 2020, arXiv 2006.07836,
and the authors' code.
"""

import math

import numpy as np
import torch
from torch import Tensor

from datamodules.corruptions.label_noise.interface import (
    check_arguments,
    check_num_classes,
    checked_labels,
    random_stream,
)

FLIP_RATE_STD = 0.1
CHUNK_VALUES = 2**24
"""Number of pixel values that are converted to float64 at a time; they need 128 MiB."""


def truncated_normal(mean: float, std: float, size: int, random: np.random.Generator) -> np.ndarray:
    """Draw `size` samples from N(mean, std^2) truncated to [0, 1].

    The mean must be in or near [0, 1].
    """
    draw = random.normal(mean, std, size)
    while len(outside := np.flatnonzero((draw < 0) | (draw > 1))):
        draw[outside] = random.normal(mean, std, len(outside))
    return draw


def truncated_normal_mean(mean: float, std: float) -> float:
    """Compute the mean of the distribution N(mean, std^2) truncated to [0, 1]."""
    low, high = (0 - mean) / std, (1 - mean) / std
    density = (math.exp(-(low**2) / 2) - math.exp(-(high**2) / 2)) / math.sqrt(2 * math.pi)
    mass = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
    return mean + std * density / mass


def class_scores(image: Tensor, weight: np.ndarray) -> np.ndarray:
    """Compute linear scores x W of images x, in 8-bit pixel units.

    The result is exactly the same for any order of summation.

    Pixels are rounded to multiples of 1/65535 of their range, and weights to multiples of 2^-16. In these units, and
    for up to 2^18 features, every partial sum is an integer below 2^53, which float64 represents exactly. The result
    therefore does not depend on the number of threads, the chunk size or the BLAS library.

    Args:
        image: images, `[N, ...]`, float in [0, 1] or uint8 in 0 ... 255.
        weight: weights W, `[features, K]`.

    Returns:
        Scores, `[N, K]`, float64.

    Raises:
        ValueError: if a float image has values outside [0, 1].
    """
    pixel = image.flatten(start_dim=1).cpu()
    if pixel.dtype == torch.uint8:
        integer = pixel.double().numpy() * 257
    else:
        integer = (pixel.double() * 65535).round().numpy()
        if not (integer.min(initial=0) >= 0 and integer.max(initial=0) <= 65535):
            raise ValueError(f"image must be in [0, 1], got values from {pixel.min():g} to {pixel.max():g}")
    return integer @ np.rint(weight * 2**16) / (257 * 2**16)


def wrong_class_probability(scores: np.ndarray, true_class: int) -> np.ndarray:
    """Compute the softmax of scores `[N, K]` over all classes except the true class; the result is `[N, K]`."""
    logit = scores.copy()
    logit[:, true_class] = -np.inf
    mass = np.exp(logit - logit.max(axis=1, keepdims=True))
    return mass / mass.sum(axis=1, keepdims=True)


class InstanceDependent:
    """Instance-dependent label noise: a random linear classifier, one per true class, chooses the wrong label.

    Pixels are in 8-bit units, as in the authors' code. In these units, the softmax is nearly one-hot: for almost every
    image, one wrong class has nearly all of the probability. If the rate is 0, labels are unchanged here. In the
    authors' code, 8 % of the labels are flipped at a rate of 0, because of the truncated normal distribution.

    Args:
        noise_rate: mean r of the distribution of flip probabilities before its truncation, in [0, 1).
        seed: seed of the noise. None means the value of `seed_everything`.
    """

    def __init__(self, noise_rate: float, seed: int | None = None) -> None:
        check_arguments(noise_rate, seed)
        self.noise_rate = noise_rate
        self.seed = seed

    def apply(self, label: np.ndarray | Tensor, num_classes: int, image: Tensor | None = None) -> Tensor:
        clean = checked_labels(label, num_classes)
        random = random_stream(self.seed, "InstanceDependent")
        if image is None or len(image) != len(clean):
            found = "none" if image is None else len(image)
            raise ValueError(
                f"for InstanceDependent, image must contain one image for each of the {len(clean)} labels, got {found}"
            )
        if self.noise_rate == 0:
            return torch.from_numpy(clean)
        flips = random.random(len(clean)) < truncated_normal(self.noise_rate, FLIP_RATE_STD, len(clean), random)
        quantile = random.random(len(clean))
        given = clean.copy()
        features = image[0].numel() if len(image) else 0
        rows = max(1, CHUNK_VALUES // max(1, features))
        for true_class in range(num_classes):
            members = np.flatnonzero(flips & (clean == true_class))
            if len(members) == 0:
                continue
            drawn = random_stream(self.seed, "InstanceDependent", true_class + 1)
            weight = drawn.standard_normal((features, num_classes))
            for start in range(0, len(members), rows):
                part = members[start : start + rows]
                scores = class_scores(image[torch.from_numpy(part).to(image.device)], weight)
                cumulative = wrong_class_probability(scores, true_class).cumsum(axis=1)
                # The last value may be below 1 because of rounding. Scaling by this value ensures that the true class
                # is never sampled.
                given[part] = (cumulative <= quantile[part, None] * cumulative[:, -1:]).sum(axis=1)
        return torch.from_numpy(given)

    def transition_matrix(self, num_classes: int) -> Tensor:
        """Return the expectation of the transition matrix over all seeds.

        In this matrix, all wrong classes are equally likely.

        For a given seed, the random weights W make some wrong classes more likely than others. For the actual
        frequencies of given labels, use `empirical_transition_matrix`.
        """
        check_num_classes(num_classes)
        rate = truncated_normal_mean(self.noise_rate, FLIP_RATE_STD) if self.noise_rate > 0 else 0.0
        matrix = torch.full((num_classes, num_classes), rate / (num_classes - 1), dtype=torch.float64)
        return matrix.fill_diagonal_(1 - rate)
