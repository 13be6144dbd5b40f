"""Distributions of the scale s, and posteriors of processes f with f | s ~ N(0, s K).

Posteriors are either exact, or variational approximations with inducing inputs.

The marginal distribution of f and the posterior of s depend on the prior of s:

    s = 1:                      a Gaussian process
    s ~ inverse gamma(a, b):    f ~ t with 2 a degrees of freedom and scale matrix (b / a) K,
                                s | y ~ inverse gamma(a + n / 2, b + y^T K^-1 y / 2)
    otherwise:                  samples s_i from the prior, with weights
                                log w_i = -(n / 2) log s_i - y^T K^-1 y / (2 s_i) + const.

The variational posterior has inducing values u_c for each class c, and one scale for all classes:

    q(u_c | s) = N(mu_c, s diag(S_c)),    q(s) = inverse gamma(a, b),
    prior: u_c | s ~ N(0, s K_ZZ),        s ~ inverse gamma(alpha, beta).

With A = K_bZ K_ZZ^-1 and B = K_bb - A K_Zb, the posterior of the process given s is

    f_c ~ N(A mu_c, s (A diag(S_c) A^T + B)).

If the likelihood factorises over points, only the diagonal of this covariance is needed.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import scipy.stats
import torch
from torch import Tensor, nn

from datamodules.arguments import at_least, positive
from lightning_modules.linear_algebra import cholesky_factor
from lightning_modules.probabilistic.scale_mixture_nngp.architectures import Positive


class Seen(NamedTuple):
    """Quantities, computed from the training rows, that are needed for predictions.

    K denotes the kernel matrix of the training rows, including the jitter.
    """

    factor: Tensor
    """Lower Cholesky factor of K, `[n, n]`."""
    solved: Tensor
    """Solution K^-1 y, `[n]`."""
    quadratic: Tensor
    """Quadratic form y^T K^-1 y, a scalar."""
    log_det: Tensor
    """Log determinant log det K, a scalar."""


def factorise_kernel(kernel: Tensor, target: Tensor, jitter: Tensor) -> Seen:
    """Factorise K + jitter I, and solve the linear system with the targets.

    Args:
        kernel: kernel matrix K of the training rows, `[n, n]`.
        target: targets y, `[n]`.
        jitter: value to add to the diagonal, a scalar.
    """
    factor = cholesky_factor(kernel, jitter)
    solved = torch.cholesky_solve(target[:, None], factor)[:, 0]
    return Seen(factor, solved, target @ solved, 2 * factor.diagonal().log().sum())


def predict_process(known: Seen, cross: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Predict the mean and the variance of the process at new points, at scale 1.

    Args:
        known: result of `factorise_kernel` for the training rows.
        cross: kernel values between each training row and each new point, `[n, m]`.
        variance: prior variance k(x, x) of each new point, `[m]`.

    Returns:
        The means K_*^T K^-1 y and the variances K_** - K_*^T K^-1 K_*, both `[m]`.
    """
    half = torch.linalg.solve_triangular(known.factor, cross, upper=False)
    return cross.T @ known.solved, variance - half.square().sum(0)


class ScaleDistribution(ABC):
    """Base class of distributions of the scale s."""

    @abstractmethod
    def log_density(self, quadratic: Tensor, log_det: Tensor, count: int) -> Tensor:
        """Compute the log marginal density log E_s[N(y; 0, s K)].

        Args:
            quadratic: quadratic form y^T K^-1 y, a tensor of any shape.
            log_det: log det K, with the same shape as `quadratic`.
            count: length n of y.
        """

    @abstractmethod
    def given_values(self, quadratic: Tensor, count: int) -> "ScaleDistribution":
        """Return the posterior of s given `count` targets y.

        `quadratic` is the scalar y^T K^-1 y.
        """

    @abstractmethod
    def cumulative(self, z: Tensor) -> Tensor:
        """Compute, on the CPU, P(sqrt(s) e < z), where e is standard normal."""

    @abstractmethod
    def mean(self) -> Tensor:
        """Compute the mean E[s], which may be infinite."""


class One(ScaleDistribution):
    """The constant scale s = 1."""

    def log_density(self, quadratic: Tensor, log_det: Tensor, count: int) -> Tensor:
        return -(count * math.log(2 * math.pi) + log_det + quadratic) / 2

    def given_values(self, quadratic: Tensor, count: int) -> "One":
        return self

    def cumulative(self, z: Tensor) -> Tensor:
        return torch.special.ndtr(z.cpu())

    def mean(self) -> Tensor:
        return torch.ones(())


@dataclass(frozen=True)
class InverseGammaLaw(ScaleDistribution):
    """Inverse gamma distribution of s with parameters a and b; its density is proportional to s^(-a - 1) e^(-b / s)."""

    a: Tensor
    b: Tensor

    def log_density(self, quadratic: Tensor, log_det: Tensor, count: int) -> Tensor:
        a, half = self.a, self.a + count / 2
        constant = torch.lgamma(half) - torch.lgamma(a) - count / 2 * torch.log(2 * math.pi * self.b)
        return constant - log_det / 2 - half * torch.log1p(quadratic / (2 * self.b))

    def given_values(self, quadratic: Tensor, count: int) -> "InverseGammaLaw":
        return InverseGammaLaw(self.a + count / 2, self.b + quadratic / 2)

    def cumulative(self, z: Tensor) -> Tensor:
        student = scipy.stats.t(2 * float(self.a), scale=math.sqrt(float(self.b / self.a)))
        return torch.from_numpy(student.cdf(z.cpu().numpy()))

    def mean(self) -> Tensor:
        return torch.where(self.a > 1, self.b / (self.a - 1), torch.inf)


class Weighted(ScaleDistribution):
    """Discrete distribution on weighted samples of s.

    Args:
        draws: samples s_i, positive, `[S]`.
        log_weight: log probabilities of the samples, `[S]`; None means equal probabilities.
    """

    def __init__(self, draws: Tensor, log_weight: Tensor | None = None) -> None:
        self.draws = draws
        self.log_weight = torch.full_like(draws, -math.log(len(draws))) if log_weight is None else log_weight

    def log_density(self, quadratic: Tensor, log_det: Tensor, count: int) -> Tensor:
        of_each = -count / 2 * torch.log(2 * math.pi * self.draws) - quadratic[..., None] / (2 * self.draws)
        return (of_each + self.log_weight).logsumexp(-1) - log_det / 2

    def given_values(self, quadratic: Tensor, count: int) -> "Weighted":
        evidence = -count / 2 * self.draws.log() - quadratic / (2 * self.draws)
        return Weighted(self.draws, (self.log_weight + evidence).log_softmax(0))

    def cumulative(self, z: Tensor) -> Tensor:
        return (torch.special.ndtr(z[..., None] / self.draws.sqrt()) @ self.log_weight.exp()).cpu()

    def mean(self) -> Tensor:
        return self.draws @ self.log_weight.exp()


class Scale(nn.Module, ABC):
    """Base class for the scale of a process, whose distribution may have trainable parameters."""

    @abstractmethod
    def law(self) -> ScaleDistribution:
        """Return the prior distribution of the scale."""


class FixedScale(Scale):
    """A scale that is fixed at 1.

    The process is then a Gaussian process.
    """

    def law(self) -> One:
        return One()


class InverseGamma(Scale):
    """A scale with an inverse gamma distribution.

    The process is then a t process.

    Args:
        a: initial value of the shape parameter; the process has 2 a degrees of freedom.
        b: initial value of the scale parameter.
    """

    def __init__(self, a: float = 2.0, b: float = 2.0) -> None:
        super().__init__()
        positive(a=a, b=b)
        self.initial = a, b
        self.a = Positive(a)
        self.b = Positive(b)

    def law(self) -> InverseGammaLaw:
        return InverseGammaLaw(self.a(), self.b())


class Burr(Scale):
    """A scale with the Burr type XII distribution P(s > x) = (1 + x^c)^-d, discretised at its quantiles.

    Args:
        c: exponent c of the distribution, not trainable.
        d: exponent d of the distribution, not trainable.
        draws: number of quantiles. The distribution is divided into this many intervals of equal probability, and each
            quantile is the median of one interval.
    """

    quantiles: Tensor

    def __init__(self, c: float = 2.0, d: float = 2.0, draws: int = 1000) -> None:
        super().__init__()
        positive(c=c, d=d)
        at_least(1, draws=draws)
        above = 1 - (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
        self.register_buffer("quantiles", (above ** (-1 / d) - 1) ** (1 / c))

    def law(self) -> Weighted:
        return Weighted(self.quantiles)


class Projection(NamedTuple):
    """Distribution of the process values at a batch of points, given the inducing values."""

    weight: Tensor
    """Matrix A, `[B, M]`."""
    residual: Tensor
    """Diagonal of the matrix B (see the module docstring), nonnegative, with one entry for each point."""


def projection(factor: Tensor, cross: Tensor, variance: Tensor) -> Projection:
    """Condition the process on its inducing values.

    Args:
        factor: lower Cholesky factor of K_ZZ, the kernel matrix of the inducing inputs, `[M, M]`.
        cross: kernel matrix K_Zb between the inducing inputs and the points, `[M, B]`.
        variance: diagonal of K_bb, the kernel matrix of the points, `[B]`.
    """
    half = torch.linalg.solve_triangular(factor, cross, upper=False)
    weight = torch.linalg.solve_triangular(factor.T, half, upper=True).T
    return Projection(weight, (variance - half.square().sum(0)).clamp(min=0))


def marginals(at: Projection, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Compute each point's mean and variance at scale 1 for each class, both `[B, C]`, from mu and S, both `[C, M]`."""
    return at.weight @ mean.T, at.weight.square() @ spread.T + at.residual[:, None]


def inducing_divergence(factor: Tensor, mean: Tensor, spread: Tensor, precision: Tensor | float) -> Tensor:
    """Compute the KL divergence between q(u | s) and the prior of u, averaged over q(s).

    Args:
        factor: lower Cholesky factor of K_ZZ, the kernel matrix of the inducing inputs, `[M, M]`.
        mean: means mu of the inducing values, `[C, M]`.
        spread: variances S of the inducing values, positive, `[C, M]`.
        precision: expectation E[1 / s] = a / b; 1 if the scale is fixed at 1.
    """
    classes, inducing = mean.shape
    inverse = torch.cholesky_inverse(factor)
    log_dets = classes * 2 * factor.diagonal().log().sum() - spread.log().sum()
    square = torch.linalg.solve_triangular(factor, mean.T, upper=False).square().sum()
    return (log_dets - classes * inducing + (spread @ inverse.diagonal()).sum() + precision * square) / 2


def scale_divergence(q: InverseGammaLaw, alpha: float, beta: float) -> Tensor:
    """Compute the KL divergence between q and the inverse gamma distribution with parameters alpha and beta."""
    constants = alpha * torch.log(q.b / beta) - torch.lgamma(q.a) + math.lgamma(alpha)
    return constants + (q.a - alpha) * torch.digamma(q.a) + (beta - q.b) * q.a / q.b
