"""Distributions of the scale s, and posteriors of f | s ~ N(0, s K).

Posteriors are exact, or variational with inducing inputs.

Marginal distribution of f and posterior of s:

    s = 1:                      a Gaussian process
    s ~ inverse gamma(a, b):    f ~ t with 2 a degrees of freedom and scale matrix (b / a) K,
                                s | y ~ inverse gamma(a + n / 2, b + y^T K^-1 y / 2)
    otherwise:                  samples s_i from its distribution, with weights
                                log w_i = -(n / 2) log s_i - y^T K^-1 y / (2 s_i) + const.

Variational posterior with inducing values u_c of each class, and one scale for all classes:

    q(u_c | s) = N(mu_c, s diag(S_c)),    q(s) = inverse gamma(a, b),
    prior: u_c | s ~ N(0, s K_ZZ),        s ~ inverse gamma(alpha, beta).

With A = K_bZ K_ZZ^-1 and B = K_bb - A K_Zb, the process given s is

    f_c ~ N(A mu_c, s (A diag(S_c) A^T + B)).

If the likelihood factorises over points, only the variance at each point is needed.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import scipy.stats
import torch
from torch import Tensor, nn

from datamodules.arguments import at_least, positive
from lightning_modules.probabilistic.scale_mixture_nngp.architectures import Positive


class Seen(NamedTuple):
    """Cholesky factor for the training rows, and the solution for their targets.

    The factor is that of the kernel matrix.
    """

    factor: Tensor
    """Lower Cholesky factor of K + jitter I, `[n, n]`."""
    solved: Tensor
    """K^-1 y, `[n]`."""
    quadratic: Tensor
    """y^T K^-1 y."""
    log_det: Tensor
    """log det K."""


def factorised(kernel: Tensor, jitter: Tensor) -> Tensor:
    """Compute the lower Cholesky factor of K + jitter I without a host sync.

    The result is NaN if no factor exists.
    """
    identity = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    factor, failed = torch.linalg.cholesky_ex(kernel + jitter * identity)
    return factor.masked_fill(failed > 0, math.nan)


def seen(kernel: Tensor, target: Tensor, jitter: Tensor) -> Seen:
    """Factorise K + jitter I, and solve the linear system with the targets.

    Args:
        kernel: `[n, n]`.
        target: y, `[n]`.
        jitter: scalar.
    """
    factor = factorised(kernel, jitter)
    solved = torch.cholesky_solve(target[:, None], factor)[:, 0]
    return Seen(factor, solved, target @ solved, 2 * factor.diagonal().log().sum())


def predicted(known: Seen, cross: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Predict the mean and the variance of the process at new points, at scale 1.

    Args:
        known: Cholesky factor and solution for the training rows.
        cross: kernel of each training row with each new point, `[n, m]`.
        variance: prior variance of each new point, which is its kernel with itself, `[m]`.

    Returns:
        K_*^T K^-1 y and K_** - K_*^T K^-1 K_*, both `[m]`.
    """
    half = torch.linalg.solve_triangular(known.factor, cross, upper=False)
    return cross.T @ known.solved, variance - half.square().sum(0)


class ScaleDistribution(ABC):
    """A distribution of the scale s."""

    @abstractmethod
    def log_density(self, quadratic: Tensor, log_det: Tensor, count: int) -> Tensor:
        """Compute the log marginal density log E_s[N(y; 0, s K)].

        Args:
            quadratic: quadratic form y^T K^-1 y, of any shape.
            log_det: log det K, of the same shape as `quadratic`.
            count: number n of values in y.
        """

    @abstractmethod
    def given(self, quadratic: Tensor, count: int) -> "ScaleDistribution":
        """Return the posterior of s given the targets y.

        `quadratic` is a scalar.
        """

    @abstractmethod
    def cumulative(self, z: Tensor) -> Tensor:
        """Compute P(sqrt(s) e < z) for standard normal e, on the host."""

    @abstractmethod
    def mean(self) -> Tensor:
        """Compute the mean E[s]; infinite if there is no finite mean."""


class One(ScaleDistribution):
    """s = 1."""

    def log_density(self, quadratic: Tensor, log_det: Tensor, count: int) -> Tensor:
        return -(count * math.log(2 * math.pi) + log_det + quadratic) / 2

    def given(self, quadratic: Tensor, count: int) -> "One":
        return self

    def cumulative(self, z: Tensor) -> Tensor:
        return torch.special.ndtr(z.cpu())

    def mean(self) -> Tensor:
        return torch.ones(())


@dataclass(frozen=True)
class InverseGammaLaw(ScaleDistribution):
    """s ~ inverse gamma(a, b), with density proportional to s^(-a - 1) e^(-b / s)."""

    a: Tensor
    b: Tensor

    def log_density(self, quadratic: Tensor, log_det: Tensor, count: int) -> Tensor:
        a, half = self.a, self.a + count / 2
        constant = torch.lgamma(half) - torch.lgamma(a) - count / 2 * torch.log(2 * math.pi * self.b)
        return constant - log_det / 2 - half * torch.log1p(quadratic / (2 * self.b))

    def given(self, quadratic: Tensor, count: int) -> "InverseGammaLaw":
        return InverseGammaLaw(self.a + count / 2, self.b + quadratic / 2)

    def cumulative(self, z: Tensor) -> Tensor:
        student = scipy.stats.t(2 * float(self.a), scale=math.sqrt(float(self.b / self.a)))
        return torch.from_numpy(student.cdf(z.cpu().numpy()))

    def mean(self) -> Tensor:
        return torch.where(self.a > 1, self.b / (self.a - 1), torch.inf)


class Weighted(ScaleDistribution):
    """Discrete distribution on samples of s.

    Args:
        draws: samples s_i, positive, `[S]`.
        log_weight: log-probabilities of the samples, `[S]`; None means equal probabilities.
    """

    def __init__(self, draws: Tensor, log_weight: Tensor | None = None) -> None:
        self.draws = draws
        self.log_weight = torch.full_like(draws, -math.log(len(draws))) if log_weight is None else log_weight

    def log_density(self, quadratic: Tensor, log_det: Tensor, count: int) -> Tensor:
        of_each = -count / 2 * torch.log(2 * math.pi * self.draws) - quadratic[..., None] / (2 * self.draws)
        return (of_each + self.log_weight).logsumexp(-1) - log_det / 2

    def given(self, quadratic: Tensor, count: int) -> "Weighted":
        evidence = -count / 2 * self.draws.log() - quadratic / (2 * self.draws)
        return Weighted(self.draws, (self.log_weight + evidence).log_softmax(0))

    def cumulative(self, z: Tensor) -> Tensor:
        return (torch.special.ndtr(z[..., None] / self.draws.sqrt()) @ self.log_weight.exp()).cpu()

    def mean(self) -> Tensor:
        return self.draws @ self.log_weight.exp()


class Scale(nn.Module, ABC):
    """The scale of a process; its distribution may have trainable parameters."""

    @abstractmethod
    def law(self) -> ScaleDistribution:
        """Build the prior of the scale."""


class FixedScale(Scale):
    """Scale 1.

    The process is then a Gaussian process.
    """

    def law(self) -> One:
        return One()


class InverseGamma(Scale):
    """Inverse gamma scale.

    The process is then a t process.

    Args:
        a: initial shape parameter; the process has 2 a degrees of freedom.
        b: initial scale parameter.
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
    """Burr type XII scale, P(s > x) = (1 + x^c)^-d, discretised at its quantiles.

    Args:
        c: first exponent of the distribution, frozen.
        d: second exponent of the distribution, frozen.
        draws: number of quantiles; quantiles are the midpoints of intervals of equal probability.
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
    """Distribution of values at points given the inducing values."""

    weight: Tensor
    """A, `[B, M]`."""
    residual: Tensor
    """Diagonal of B, non-negative, `[B]`."""


def projection(factor: Tensor, cross: Tensor, variance: Tensor) -> Projection:
    """Condition the process on its inducing values.

    Args:
        factor: lower Cholesky factor of K_ZZ, the kernel matrix of the inducing inputs, `[M, M]`.
        cross: K_Zb, `[M, B]`.
        variance: diagonal of K_bb, the kernel matrix of the points, `[B]`.
    """
    half = torch.linalg.solve_triangular(factor, cross, upper=False)
    weight = torch.linalg.solve_triangular(factor.T, half, upper=True).T
    return Projection(weight, (variance - half.square().sum(0)).clamp(min=0))


def marginals(at: Projection, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean and variance of each class and point at scale 1, `[B, C]`, from mu and S, `[C, M]`."""
    return at.weight @ mean.T, at.weight.square() @ spread.T + at.residual[:, None]


def inducing_divergence(factor: Tensor, mean: Tensor, spread: Tensor, precision: Tensor | float) -> Tensor:
    """Compute the KL divergence between q(u | s) and the prior, averaged over q(s).

    Args:
        factor: lower Cholesky factor of K_ZZ, the kernel matrix of the inducing inputs, `[M, M]`.
        mean: mu, `[C, M]`.
        spread: variances S of the inducing values, positive, `[C, M]`.
        precision: expectation E[1 / s] = a / b; it is 1 for scale 1.
    """
    classes, inducing = mean.shape
    inverse = torch.cholesky_inverse(factor)
    log_dets = classes * 2 * factor.diagonal().log().sum() - spread.log().sum()
    square = torch.linalg.solve_triangular(factor, mean.T, upper=False).square().sum()
    return (log_dets - classes * inducing + (spread @ inverse.diagonal()).sum() + precision * square) / 2


def scale_divergence(q: InverseGammaLaw, alpha: float, beta: float) -> Tensor:
    """Compute the KL divergence between q and the inverse gamma distribution with alpha and beta."""
    constants = alpha * torch.log(q.b / beta) - torch.lgamma(q.a) + math.lgamma(alpha)
    return constants + (q.a - alpha) * torch.digamma(q.a) + (beta - q.b) * q.a / q.b
