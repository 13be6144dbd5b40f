"""Noise distributions with known densities: Gaussians, mixtures of Gaussians fitted to data, and uniform noise."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least, positive

Draw = Callable[[Callable[..., Tensor], tuple[int, ...]], Tensor]
"""Function that calls `torch.rand` or `torch.randn` with a given shape and with the caller's device and dtype."""


class NoiseDistribution(nn.Module, ABC):
    """Base class of noise distributions with a known density, for vectors of length D."""

    is_fitted = False
    """Whether `fit` must be called before training."""

    def fit(self, points: Tensor) -> None:
        """Fit the distribution to the training points `[N, D]`, before training.

        For distributions without fitted parameters, this method does nothing.
        """

    @abstractmethod
    def sample(self, n: int, draw: Draw) -> Tensor:
        """Sample n vectors, `[n, D]`."""

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """Compute log q(x), `[B]`, in float64, for vectors x `[B, D]`."""


class UniformDistribution(NoiseDistribution):
    """Uniform distribution on the unit cube [0, 1]^D.

    Args:
        dim: length D of a vector.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        at_least(1, dim=dim)
        self.dim = dim

    def sample(self, n: int, draw: Draw) -> Tensor:
        return draw(torch.rand, (n, self.dim))

    def log_density(self, x: Tensor) -> Tensor:
        inside = ((x >= 0) & (x <= 1)).all(dim=1)
        return torch.where(inside, 0.0, -math.inf).double()


class GaussianMixtureNoise(NoiseDistribution):
    """A mixture of Gaussians with full covariances.

    Args:
        dim: length D of a vector.
        components: number of Gaussians in the mixture.
        added_variance: variance that is added to the diagonals of the fitted covariances.
    """

    is_fitted = True
    mean: Tensor
    factor: Tensor
    log_share: Tensor

    def __init__(self, dim: int, components: int = 10, added_variance: float = 0.01) -> None:
        super().__init__()
        at_least(1, dim=dim, components=components)
        at_least(0, added_variance=added_variance)
        self.components = components
        self.added_variance = added_variance
        self.register_buffer("mean", torch.zeros(components, dim, dtype=torch.float64))
        self.register_buffer("factor", torch.eye(dim, dtype=torch.float64).repeat(components, 1, 1))
        self.register_buffer("log_share", torch.full((components,), -math.log(components), dtype=torch.float64))

    def fit(self, points: Tensor) -> None:
        from sklearn.mixture import GaussianMixture

        fitted = GaussianMixture(self.components, reg_covar=1e-4, random_state=0).fit(points.double().cpu().numpy())
        covariance = torch.from_numpy(fitted.covariances_)
        covariance.diagonal(dim1=1, dim2=2).add_(self.added_variance)
        self._set(torch.from_numpy(fitted.means_), covariance, torch.from_numpy(fitted.weights_).log())

    def _set(self, mean: Tensor, covariance: Tensor, log_share: Tensor) -> None:
        self.mean.copy_(mean)
        self.factor.copy_(torch.linalg.cholesky(covariance))
        self.log_share.copy_(log_share)

    def sample(self, n: int, draw: Draw) -> Tensor:
        uniform, normal = draw(torch.rand, (n,)), draw(torch.randn, (n, self.mean.shape[1]))
        bounds = self.log_share.exp().cumsum(0)[:-1].to(uniform)
        which = torch.bucketize(uniform, bounds)
        moved = self.mean[which] + torch.einsum("nij,nj->ni", self.factor[which], normal.double())
        return moved.to(normal)

    def log_density(self, x: Tensor) -> Tensor:
        centred = x.double()[:, None] - self.mean  # [B, K, D]
        white = torch.linalg.solve_triangular(self.factor, centred.permute(1, 2, 0), upper=False)
        log_determinant = self.factor.diagonal(dim1=1, dim2=2).log().sum(1)
        square = white.square().sum(1).T
        constant = self.mean.shape[1] / 2 * math.log(2 * math.pi)
        return (self.log_share - square / 2 - log_determinant - constant).logsumexp(1)


class GaussianNoise(GaussianMixtureNoise):
    """Gaussian noise, either around 0 or fitted to the mean and covariance of the training data.

    Args:
        dim: length D of a vector.
        std: standard deviation of each coordinate, for noise around 0.
        widened: factor that multiplies the covariance of the training data; None selects noise around 0.
    """

    def __init__(self, dim: int, std: float = 1.0, widened: float | None = None) -> None:
        super().__init__(dim, 1, 0.0)
        positive(std=std, widened=widened)
        self.widened = widened
        self.is_fitted = widened is not None
        self.factor.mul_(std)

    def fit(self, points: Tensor) -> None:
        assert self.widened is not None
        points = points.double()
        covariance = self.widened * torch.cov(points.T).reshape(1, points.shape[1], -1)
        self._set(points.mean(0, keepdim=True), covariance, torch.zeros(1))
