"""Laws of the scale s in f | s ~ N(0, s K), what is seen of f when s is not, and what f tells of s.

s = 1:                        a Gaussian process
s ~ inverse gamma(a, b):      f ~ t with 2 a degrees of freedom and scale matrix (b / a) K,
                              s | y ~ inverse gamma(a + n / 2, b + y^T K^-1 y / 2)
any other law:                by draws s_i from it with weights
                              log w_i = -(n / 2) log s_i - y^T K^-1 y / (2 s_i) + const.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import scipy.stats
import torch
from torch import Tensor, nn

from datamodules.arguments import at_least, positive
from lightning_modules.probabilistic.scale_mixture_nngp.architectures import Positive


class ScaleDistribution(ABC):
    """A law of s."""

    @abstractmethod
    def log_density(self, quadratic: Tensor, log_det: Tensor, count: int) -> Tensor:
        """Compute log of the mean over s of N(y; 0, s K).

        Args:
            quadratic: y^T K^-1 y, of any shape.
            log_det: log det K, of the same shape.
            count: n, numbers in y.
        """

    @abstractmethod
    def given(self, quadratic: Tensor, count: int) -> "ScaleDistribution":
        """Give the law of s when y has been seen; `quadratic` is a number."""

    @abstractmethod
    def cumulative(self, z: Tensor) -> Tensor:
        """Compute the probability that sqrt(s) times a standard normal number is below z, on the host."""

    @abstractmethod
    def mean(self) -> Tensor:
        """Compute E[s], infinite where there is none."""


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
    """s is one of some draws.

    Args:
        draws: s_i, positive, `[S]`.
        log_weight: logarithms of their probabilities, `[S]`; None makes them equal.
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
    """The scale of a process, some of whose law may be trained."""

    @abstractmethod
    def law(self) -> ScaleDistribution:
        """Give the law before anything is seen."""


class FixedScale(Scale):
    """The scale 1 of a Gaussian process."""

    def law(self) -> One:
        return One()


class InverseGamma(Scale):
    """A scale with an inverse gamma law, which makes a t process.

    Args:
        a: to begin with; the process has 2 a degrees of freedom.
        b: to begin with.
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
    """A scale with a Burr law of type XII, P(s > x) = (1 + x^c)^-d, at quantiles of it in place of random draws.

    Args:
        c: first exponent, not trained.
        d: second exponent, not trained.
        draws: number of quantiles, each in the middle of its share of the probability.
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
