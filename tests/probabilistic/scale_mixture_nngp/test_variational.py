import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from lightning_modules.probabilistic.scale_mixture_nngp.scales import InverseGammaLaw
from lightning_modules.probabilistic.scale_mixture_nngp.variational import (
    inducing_divergence,
    marginals,
    projection,
    scale_divergence,
)

A, B, ALPHA, BETA = 2.7, 1.3, 2.0, 3.1


def law(a: float, b: float) -> InverseGammaLaw:
    return InverseGammaLaw(*(torch.tensor(value, dtype=torch.float64) for value in (a, b)))


def problem() -> tuple[Tensor, Tensor, Tensor]:
    """A kernel of four inducing inputs and three points, and mu and S of two classes."""
    random = torch.Generator().manual_seed(0)
    root = torch.randn(7, 7, generator=random, dtype=torch.float64)
    mean = torch.randn(2, 4, generator=random, dtype=torch.float64)
    spread = torch.rand(2, 4, generator=random, dtype=torch.float64) + 0.1
    return root @ root.T + torch.eye(7), mean, spread


def test_points_follow_from_inducing_values() -> None:
    kernel, mean, spread = problem()
    at = projection(torch.linalg.cholesky(kernel[:4, :4]), kernel[:4, 4:], kernel.diagonal()[4:])
    weight = kernel[4:, :4] @ kernel[:4, :4].inverse()
    left = kernel[4:, 4:] - weight @ kernel[:4, 4:]
    ours = marginals(at, mean, spread)
    for c in range(2):
        torch.testing.assert_close(ours[0][:, c], weight @ mean[c])
        torch.testing.assert_close(ours[1][:, c], (weight @ spread[c].diag() @ weight.T + left).diagonal())
    prior = torch.linalg.cholesky(kernel[:4, :4])
    at_inducing = projection(prior, kernel[:4, :4], kernel.diagonal()[:4])
    torch.testing.assert_close(marginals(at_inducing, mean, spread)[0], mean.T)


def test_the_divergence_of_values_is_that_of_normal_laws_averaged_over_the_scale() -> None:
    kernel, mean, spread = problem()
    kzz = kernel[:4, :4]
    factor = torch.linalg.cholesky(kzz)

    def at_scale(s: float) -> float:
        ours = [MultivariateNormal(mean[c], s * spread[c].diag()) for c in range(2)]
        return float(sum(kl_divergence(q, MultivariateNormal(torch.zeros(4).double(), s * kzz)) for q in ours))

    assert float(inducing_divergence(factor, mean, spread, 1.0)) == pytest.approx(at_scale(1.0), rel=1e-10)
    inverse_gamma = scipy.stats.invgamma(A, scale=B)
    averaged = quad(lambda s: at_scale(s) * inverse_gamma.pdf(s), 1e-3, 60, limit=200)[0]
    assert float(inducing_divergence(factor, mean, spread, A / B)) == pytest.approx(averaged, rel=1e-3)
    nothing = inducing_divergence(torch.diag(spread[0].sqrt()), 0 * mean[:1], spread[:1], A / B)
    assert float(nothing) == pytest.approx(0, abs=1e-12)


def test_the_divergence_of_scales_is_its_integral_and_zero_for_the_prior() -> None:
    q, p = scipy.stats.invgamma(A, scale=B), scipy.stats.invgamma(ALPHA, scale=BETA)
    integral = quad(lambda s: q.pdf(s) * (q.logpdf(s) - p.logpdf(s)), 0, np.inf)[0]
    assert float(scale_divergence(law(A, B), ALPHA, BETA)) == pytest.approx(integral, abs=1e-7)
    assert float(scale_divergence(law(A, B), A, B)) == pytest.approx(0, abs=1e-14)
    assert integral > 0


def test_gradients_are_those_of_finite_differences() -> None:
    kernel, mean, spread = problem()

    def value(root: Tensor, mean: Tensor, spread: Tensor, a: Tensor, b: Tensor) -> Tensor:
        kernel = root @ root.T
        factor = torch.linalg.cholesky(kernel[:4, :4])
        at = projection(factor, kernel[:4, 4:], kernel.diagonal()[4:])
        centre, variance = marginals(at, mean, spread)
        bound = inducing_divergence(factor, mean, spread, a / b) + scale_divergence(InverseGammaLaw(a, b), 2.0, 3.0)
        return bound + centre.sum() + variance.log().sum()

    inputs = [torch.linalg.cholesky(kernel), mean, spread, *(torch.tensor(v, dtype=torch.float64) for v in (A, B))]
    assert torch.autograd.gradcheck(value, tuple(each.requires_grad_() for each in inputs))
