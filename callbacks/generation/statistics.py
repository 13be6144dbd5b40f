"""Compute FID and KID, which are distances between the features of two image sets, and IS, a score of one set.

    FID = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)
    KID = mean over subsets of the unbiased squared MMD with the kernel k(x, y) = (<x, y>/D + 1)^3
    IS  = exp(mean_i KL(p_i || mean_j p_j))

Here m and S are the mean and covariance of a set's features, D is the number of features, and p_i are the class
probabilities of image i. Features are read in chunks from an array, which may be on disk, and are summed in float64.
The required memory therefore does not grow with the number of images. If a set has more than 10,000 images, KID's
subsets are sampled from a reservoir of 10,000 randomly chosen images of this set. KID can also be computed over all
pairs of images.

Source: Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, GANs Trained by a Two Time-Scale Update Rule Converge to
a Local Nash Equilibrium, NeurIPS 2017, arXiv 1706.08500; Binkowski, Sutherland, Arbel and Gretton, Demystifying MMD
GANs, ICLR 2018, arXiv 1801.01401; Salimans et al., Improved Techniques for Training GANs, NeurIPS 2016, arXiv
1606.03498.
"""

import random
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.randomness.generators import generator_of, seed_of

Features = NDArray[Any]
"""Features `[N, D]`, in memory or memory-mapped."""
CHUNK = 1024
SUBSETS, SUBSET_SIZE = 100, 1000
RESERVOIR = 10_000
"""Maximum number of images, per set, from which the subsets for KID are sampled."""


class FeatureMoments(NamedTuple):
    """Mean and covariance of features."""

    mean: Tensor
    """`[D]`, float64."""
    covariance: Tensor
    """`[D, D]`, float64, with the divisor N - 1."""
    images: int | None
    """Number of images N; None if unknown, as for files of other projects."""


def _rows(feature: Features, rows: Any, device: torch.device) -> Tensor:
    kept = torch.from_numpy(np.array(feature[rows], dtype=np.float32))
    return kept.to(device).double()


def moment_sums(feature: Features, device: torch.device, share: int = 0, shares: int = 1) -> Tensor:
    """Sum the features and their outer products over one shard of the chunks.

    Args:
        feature: `[N, D]`.
        device: device of the computation, in float64.
        share: index of the shard.
        shares: number of shards. The sum of the results of all shards is the sum over all rows.

    Returns:
        `[D + 1, D]`, float64: the sum of f f^T over the features f of the shard's images, and in the last row the sum
        of f.
    """
    dimensions = feature.shape[1]
    sums = torch.zeros(dimensions + 1, dimensions, dtype=torch.float64, device=device)
    for start in range(share * CHUNK, len(feature), shares * CHUNK):
        rows = _rows(feature, slice(start, start + CHUNK), device)
        if device.type == "cpu":  # unlike PyTorch, NumPy computes only half of a symmetric product
            sums[:-1] += torch.from_numpy(rows.numpy().T @ rows.numpy())
        else:
            sums[:-1].addmm_(rows.T, rows)
        sums[-1] += rows.sum(dim=0)
    return sums


def moments_of(sums: Tensor, count: int) -> FeatureMoments:
    """Convert the `moment_sums` of N = `count` rows to mean and covariance, on the CPU. CPU sums are overwritten."""
    sums = sums.cpu()
    mean = sums[-1] / count
    return FeatureMoments(mean, sums[:-1].addr_(mean, mean, alpha=-count).div_(count - 1), count)


def frechet_distance(first: FeatureMoments, second: FeatureMoments) -> float:
    """Compute FID, the Fréchet distance of two Gaussians.

    Let A A^T = S1. The trace of the matrix root equals the sum of the square roots of the eigenvalues of A^T S2 A,
    which is a symmetric matrix. The numbers of images bound the number of nonzero eigenvalues. All further eigenvalues
    are rounding errors, and are dropped.
    """
    dimensions = len(first.mean)
    ranks = [dimensions if count is None else min(dimensions, count - 1) for count in (first.images, second.images)]
    values, vectors = torch.linalg.eigh(first.covariance)
    kept = slice(dimensions - ranks[0], None)  # eigenvalues are in ascending order
    root = vectors[:, kept] * values[kept].clamp(min=0).sqrt()
    products = torch.linalg.eigvalsh(root.T @ second.covariance @ root)[-min(ranks) :]
    apart = (first.mean - second.mean).square().sum() + first.covariance.trace() + second.covariance.trace()
    return float(apart - 2 * products.clamp(min=0).sqrt().sum())


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T).div_(first.shape[1]).add_(1).pow_(3)


def _kernel_with_itself(rows: Tensor) -> Tensor:
    """Compute the kernel k(x, x) of each row x."""
    return (rows.square().sum(dim=1) / rows.shape[1] + 1).pow(3)


def _unbiased_mmd(within: tuple[Tensor, Tensor], across: Tensor, counts: tuple[int, int]) -> Tensor:
    """Compute the unbiased squared MMD from kernel sums over pairs of different rows in a set and pairs across sets."""
    (m, n), (xx, yy) = counts, within
    return xx / (m * (m - 1)) + yy / (n * (n - 1)) - 2 * across / (m * n)


def reservoir(count: int, *words: int) -> NDArray[np.int64]:
    """Sample at most `RESERVOIR` rows of a set, from which KID's subsets are chosen; return ascending row indices.

    Args:
        count: number of rows in the set.
        words: integers that seed the sampling.
    """
    if count <= RESERVOIR:
        return np.arange(count)
    return np.sort(random.Random(seed_of(*words)).sample(range(count), RESERVOIR))


def num_subsets(first: int, second: int) -> int:
    """Return the number of subsets for the KID of N and M images. It is 1 if every subset would contain all images."""
    return 1 if first == second <= SUBSET_SIZE else SUBSETS


def kid_basis(first: int, second: int, exact: bool) -> str:
    """Describe in words which images KID uses if the sets have N and M images."""
    if exact:
        return f"all pairs of {first} and {second} images"
    drawn = [f"{RESERVOIR} of {count}" if count > RESERVOIR else str(count) for count in (first, second)]
    size = min(SUBSET_SIZE, first, second)
    return f"{num_subsets(first, second)} subsets of {size} among {drawn[0]} and {drawn[1]} images"


def subset_distances(
    first: Features, second: Features, seed: int, device: torch.device, share: int = 0, shares: int = 1
) -> Tensor:
    """Compute the squared MMD between random subsets of two sets; KID is the mean over the subsets.

    Each set has a reservoir of randomly chosen rows. A subset has 1,000 rows of each reservoir, or as many as the
    smaller reservoir has. The reservoirs depend only on the seed, and a subset depends only on (seed, subset index).
    The kernel of two rows is computed once for all subsets that contain both rows. The kernel matrix is computed in
    tiles.

    Args:
        first: `[N, D]`.
        second: `[M, D]`.
        seed: random seed.
        device: device of the computation, in float64.
        share: index of the shard (of the tiles of the kernel matrix) that is computed.
        shares: number of shards.

    Returns:
        This shard's contribution to the squared MMD of each of the S subsets, `[S]`, float64. The squared MMD is the
        sum of the contributions of all shards.
    """
    sets, size = (first, second), min(SUBSET_SIZE, len(first), len(second))
    kept = [reservoir(len(rows), seed, SUBSETS + side) for side, rows in enumerate(sets)]
    chosen = [torch.zeros(num_subsets(len(first), len(second)), len(rows), dtype=torch.float64) for rows in kept]
    for number in range(len(chosen[0])):
        generator = generator_of(seed, number)
        for each in chosen:
            each[number, torch.randperm(each.shape[1], generator=generator)[:size]] = 1
    chosen = [each.to(device) for each in chosen]
    sums = [torch.zeros(len(each), dtype=torch.float64, device=device) for each in (*chosen, chosen[0])]
    starts = [range(0, len(rows), CHUNK) for rows in kept]
    for place, (one, other) in enumerate(((0, 0), (1, 1), (0, 1))):
        for at in starts[one][share::shares]:
            rows = _rows(sets[one], kept[one][at : at + CHUNK], device)
            having = chosen[one][:, at : at + CHUNK]
            if one == other:
                sums[place] -= having @ _kernel_with_itself(rows)
            for to in starts[other]:
                if one == other and to > at:
                    continue  # the kernel is symmetric
                tile = _kernel(rows, _rows(sets[other], kept[other][to : to + CHUNK], device))
                times = 2 if one == other and to < at else 1
                sums[place] += times * ((having @ tile) * chosen[other][:, to : to + CHUNK]).sum(dim=1)
    return _unbiased_mmd((sums[0], sums[1]), sums[2], (size, size))


def kernel_sums(first: Features, second: Features, device: torch.device, share: int = 0, shares: int = 1) -> Tensor:
    """Sum the kernel over pairs of different rows in each of the two sets, and over pairs across the sets, `[3]`.

    Args:
        first: `[N, D]`.
        second: `[M, D]`.
        device: device of the computation, in float64.
        share: index of the shard (of the tiles of the kernel matrix) that is computed.
        shares: number of shards. The results of all shards must be added.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    for place, (left, right) in enumerate(((first, first), (second, second), (first, second))):
        for start in range(share * CHUNK, len(left), shares * CHUNK):
            rows = _rows(left, slice(start, start + CHUNK), device)
            for other in range(0, len(right), CHUNK):
                sums[place] += _kernel(rows, _rows(right, slice(other, other + CHUNK), device)).sum()
            if place < 2:
                sums[place] -= _kernel_with_itself(rows).sum()
    return sums


def exact_distance(sums: Tensor, first: int, second: int) -> float:
    """Compute the squared MMD between two whole sets of N and M rows from their `kernel_sums`."""
    return float(_unbiased_mmd((sums[0], sums[1]), sums[2], (first, second)))


def score_sums(feature: Features, classifier: Tensor, device: torch.device, share: int = 0, shares: int = 1) -> Tensor:
    """Compute the sums for the Inception score (IS) over one shard of the chunks.

    Args:
        feature: `[N, D]`.
        classifier: weights `[K, D]` that map features to logits.
        device: device of the computation, in float64.
        share: index of the shard.
        shares: number of shards. The results of all shards must be added.

    Returns:
        `[K + 1]`, float64: the sums of the probabilities p, and the sum of <p, log p>.
    """
    classifier = classifier.to(device).double()
    sums = torch.zeros(len(classifier) + 1, dtype=torch.float64, device=device)
    for start in range(share * CHUNK, len(feature), shares * CHUNK):
        log_probability = (_rows(feature, slice(start, start + CHUNK), device) @ classifier.T).log_softmax(dim=1)
        probability = log_probability.exp()
        sums[:-1] += probability.sum(dim=0)
        sums[-1] += (probability * log_probability).sum()
    return sums


def inception_score(sums: Tensor, count: int) -> float:
    """Compute IS from the `score_sums` of N = `count` rows. All images are used together, not in ten splits."""
    mean = sums[:-1] / count
    return float((sums[-1] / count - torch.special.xlogy(mean, mean).sum()).exp())
