"""Class-conditional Gaussians of the features f of a layer, with one covariance for all classes.

The maximum-likelihood estimates and the squared Mahalanobis distance are

    mu_c  = (1/N_c) sum_{i: y_i = c} f_i
    Sigma = (1/N) sum_c sum_{i: y_i = c} (f_i - mu_c) (f_i - mu_c)^T
    d_c(f) = (f - mu_c)^T Sigma^+ (f - mu_c)

The estimates are updated after every batch. Let a global batch have the counts n'_c, the means m'_c, and the scatter
matrix S' around these means. The update is

    S <- S + S' + sum_c (n_c n'_c / (n_c + n'_c)) (m'_c - mu_c) (m'_c - mu_c)^T
    mu_c <- mu_c + (n'_c / (n_c + n'_c)) (m'_c - mu_c),    n_c <- n_c + n'_c,    Sigma = S / N.

This form of the update avoids cancellation. Let layer l have d_l features, and all layers together D features. For K
classes, the estimates need 8 (K + K D + sum_l d_l^2) bytes, whatever N is. All computations are in float64.

Sources: Lee, Lee, Lee and Shin, A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks, NeurIPS 2018, arXiv 1807.03888, section 2 and algorithm 2; Chan, Golub and LeVeque, Updating Formulae and a
Pairwise Algorithm for Computing Sample Variances, COMPSTAT 1982, for merging two estimates.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datamodules.distributed.collectives import all_reduce_sum


def class_means(features: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Compute the number of samples and the mean of each class over all ranks.

    Args:
        features: features of the samples on this rank, `[B, D]`, float64.
        label: `[B]`, int64.
        num_classes: number K of classes.

    Returns:
        Counts `[K]` and means `[K, D]`; both are 0 for classes without samples.
    """
    rows = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    sums = all_reduce_sum(rows.new_zeros(num_classes, rows.shape[1]).index_add_(0, label, rows))
    count = sums[:, -1]
    return count, sums[:, :-1] / count.clamp(min=1)[:, None]


class ClassGaussians(nn.Module):
    """Streaming estimates of the class means and the shared covariance of each layer.

    After each update, the buffers are the same on every rank.

    Args:
        num_classes: number K of classes.
        num_features: number d_l of features of each layer.
    """

    count: Tensor
    """Number of samples of each class, `[K]`."""
    mean: Tensor
    """Class means mu of all layers, concatenated, `[K, D]`."""
    scatter: Tensor
    """Scatter matrices N Sigma of the layers, each flattened, in one vector `[sum_l d_l^2]`."""

    def __init__(self, num_classes: int, num_features: Sequence[int]) -> None:
        super().__init__()
        self.num_features = list(num_features)
        sizes = {
            "count": (num_classes,),
            "mean": (num_classes, sum(num_features)),
            "scatter": (sum(d * d for d in num_features),),
        }
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ClassGaussians":
        """Move the buffers to another device, but keep them in float64."""

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == torch.float64 else tensor.to(result.device)

        return super()._apply(moved, recurse)

    @torch.no_grad()
    def update(self, features: Sequence[Tensor], label: Tensor) -> None:
        """Add the statistics of a global batch, without host synchronisation.

        Args:
            features: features of each layer for the samples on this rank, `[B, d_l]`; B may differ between ranks.
            label: `[B]`, int64, in 0...K - 1.
        """
        parts = [part.double() for part in features]
        count, mean = class_means(torch.cat(parts, dim=1), label, len(self.count))
        products = []
        for part, centre in zip(parts, mean.split(self.num_features, dim=1), strict=True):
            centred = part - centre[label]
            products.append((centred.T @ centred).flatten())
        scatter = all_reduce_sum(torch.cat(products))
        total = self.count + count
        new = count / total.clamp(min=1)
        shift = torch.where(count[:, None] > 0, mean - self.mean, 0.0)
        weight = self.count * new
        moved = [(part.T * weight) @ part for part in shift.split(self.num_features, dim=1)]
        self.scatter += scatter + torch.cat([part.flatten() for part in moved])
        self.mean += new[:, None] * shift
        self.count.copy_(total)

    def means(self, layer: int) -> Tensor:
        """Return the class means mu, `[K, d]`, of a layer."""
        return self.mean.split(self.num_features, dim=1)[layer]

    def covariance(self, layer: int) -> Tensor:
        """Return the maximum-likelihood estimate of a layer's covariance Sigma, `[d, d]`."""
        d = self.num_features[layer]
        scatter = self.scatter.split([width**2 for width in self.num_features])[layer]
        return scatter.view(d, d) / self.count.sum()

    def whitening(self, layer: int) -> "Whitened":
        """Return the whitening of a layer; see `whiten`."""
        return whiten(self.means(layer), self.covariance(layer), self.count > 0)

    def whitenings(self) -> "list[Whitened]":
        """Return the whitenings of all layers."""
        return [self.whitening(layer) for layer in range(len(self.num_features))]


class Whitened(NamedTuple):
    """Linear whitening z = (f - centre) W with W W^T = Sigma^+.

    d_c is the squared Euclidean distance between the whitened f and the whitened mean of class c.
    """

    classes: Tensor
    """Classes that have a mean, `[C]`, int64."""
    centre: Tensor
    """Centre, `[d]`."""
    whitening: Tensor
    """Matrix W, `[d, rank of Sigma]`."""
    mean: Tensor
    """Whitened class means, `[C, rank]`."""

    @property
    def rank(self) -> int:
        return self.whitening.shape[1]

    @property
    def precision(self) -> Tensor:
        """Sigma^+, `[d, d]`."""
        return self.whitening @ self.whitening.T


def whiten(mean: Tensor, covariance: Tensor, present: Tensor) -> Whitened:
    """Compute the whitening that corresponds to the pseudo-inverse of Sigma.

    A direction counts as having zero variance if its variance is below d times the rounding error of the largest
    variance. Distances ignore such directions.

    Args:
        mean: class means mu, `[K, d]`.
        covariance: covariance Sigma, `[d, d]`.
        present: whether each class has samples, `[K]`, bool.
    """
    variance, direction = torch.linalg.eigh(covariance)
    kept = variance > len(variance) * torch.finfo(variance.dtype).eps * variance[-1].clamp(min=0)
    whitening = direction[:, kept] / variance[kept].sqrt()
    classes = present.nonzero()[:, 0]
    centre = mean[classes].mean(dim=0)
    return Whitened(classes, centre, whitening, (mean[classes] - centre) @ whitening)


def mahalanobis_distances(features: Tensor, whitened: Whitened) -> Tensor:
    """Compute the squared distances d_c, `[B, C]`, between features `[B, d]` and the class means, in float64."""
    z = (features.double() - whitened.centre) @ whitened.whitening
    squares = z.square().sum(dim=1, keepdim=True) + whitened.mean.square().sum(dim=1)
    return (squares - 2 * z @ whitened.mean.T).clamp(min=0)


def mahalanobis_confidence(features: Tensor, whitened: Whitened) -> Tensor:
    """Compute M = max_c -d_c / 2, `[B]`.

    M is at most 0. A higher M means that the input is more similar to the training data.
    """
    return -0.5 * mahalanobis_distances(features, whitened).amin(dim=1)


def standardized_score(confidence: Tensor, rank: Tensor | int) -> Tensor:
    """Compute the standardised score (M + r/2) / sqrt(r/2).

    If -2 M is chi^2-distributed with r degrees of freedom, this score has mean 0 and variance 1.

    Standardisation makes the scores of layers comparable without validation data. For any distribution of features, the
    mean of -d_y / 2 over the training set is exactly -r/2, where y are the true labels.

    Args:
        confidence: scores M.
        rank: rank r of the covariance; must be broadcastable to the shape of M.
    """
    half = torch.as_tensor(rank, device=confidence.device) / 2
    return (confidence + half) / half.clamp(min=0.5).sqrt()


def mean_confidence(layers: Tensor, rank: Tensor) -> Tensor:
    """Average the standardised scores of L layers, `[B]`, from M, `[B, L]`, and the covariances' ranks, `[L]`."""
    return standardized_score(layers, rank).mean(dim=1)
