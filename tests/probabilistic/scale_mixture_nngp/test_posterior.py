import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from lightning_modules.probabilistic.scale_mixture_nngp.posterior import (
    Burr,
    FixedScale,
    InverseGamma,
    InverseGammaLaw,
    One,
    Scale,
    ScaleDistribution,
    Weighted,
    factorise_kernel,
    inducing_divergence,
    marginals,
    predict_process,
    projection,
    scale_divergence,
)


def test_mean_and_variance_are_those_of_a_block_of_the_precision() -> None:
    """For precision P, the other points, given the seen ones, have covariance P_**^-1 and mean -P_**^-1 P_*n y."""
    random = torch.Generator().manual_seed(0)
    root = torch.randn(7, 7, generator=random, dtype=torch.float64)
    y = torch.randn(4, generator=random, dtype=torch.float64)
    noisy = torch.diag(torch.tensor([0.3] * 4 + [0.0] * 3)).double()
    kernel = root @ root.T
    precision = (kernel + noisy).inverse()
    known = factorise_kernel(kernel[:4, :4], y, noisy[0, 0])
    mean, variance = predict_process(known, kernel[:4, 4:], kernel.diagonal()[4:])
    covariance = precision[4:, 4:].inverse()
    torch.testing.assert_close(variance, covariance.diagonal(), rtol=1e-9, atol=0)
    torch.testing.assert_close(mean, -covariance @ precision[4:, :4] @ y, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(known.log_det, torch.logdet(kernel[:4, :4] + noisy[:4, :4]))
    torch.testing.assert_close(known.quadratic, y @ torch.linalg.solve(kernel[:4, :4] + noisy[:4, :4], y))


def test_a_matrix_that_is_not_positive_definite_gives_nan_and_no_wrong_number() -> None:
    known = factorise_kernel(-torch.eye(3).double(), torch.ones(3).double(), torch.zeros(()).double())
    assert torch.isnan(known.quadratic)


A, B = 2.3, 1.7


def inverse_gamma(a: float = A, b: float = B) -> InverseGammaLaw:
    return InverseGammaLaw(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))


def problem(count: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    root = torch.randn(count, count, generator=random, dtype=torch.float64)
    return root @ root.T + torch.eye(count), torch.randn(count, generator=random, dtype=torch.float64)


def density(of: ScaleDistribution, y: Tensor, kernel: Tensor) -> Tensor:
    known = factorise_kernel(kernel, y, torch.zeros(()).double())
    return of.log_density(known.quadratic, known.log_det, len(y))


def test_the_mixture_over_inverse_gamma_scales_is_a_t() -> None:
    kernel, y = problem()
    ours = float(density(inverse_gamma(), y, kernel))
    student = scipy.stats.multivariate_t(shape=B / A * kernel.numpy(), df=2 * A)
    assert ours == pytest.approx(float(student.logpdf(y.numpy())), abs=1e-10)
    quadratic, n = float(y @ torch.linalg.solve(kernel, y)), len(y)
    constant = (2 * math.pi) ** (-n / 2) * float(torch.linalg.det(kernel)) ** -0.5
    prior = scipy.stats.invgamma(A, scale=B)
    mean = quad(lambda s: constant * s ** (-n / 2) * math.exp(-quadratic / (2 * s)) * prior.pdf(s), 0, np.inf)[0]
    assert ours == pytest.approx(math.log(mean), abs=1e-6)
    normal = scipy.stats.multivariate_normal(cov=kernel.numpy())
    assert float(density(One(), y, kernel)) == pytest.approx(float(normal.logpdf(y.numpy())), abs=1e-10)


@pytest.mark.parametrize("of", [inverse_gamma(), One(), Burr(2.0, 3.0, 500).law()])
def test_seen_and_unseen_numbers_together_are_one_and_then_the_other(of: ScaleDistribution) -> None:
    """The identity p(y, y_*) = p(y) p(y_* | y) holds only if mean, variance and the scale's posterior are right."""
    kernel, y = problem(6)
    known = factorise_kernel(kernel[:5, :5], y[:5], torch.zeros(()).double())
    mean, variance = predict_process(known, kernel[:5, 5:], kernel.diagonal()[5:])
    after = of.given_values(known.quadratic, 5).log_density((y[5:] - mean) ** 2 / variance, variance.log(), 1)
    torch.testing.assert_close(
        density(of, y[:5], kernel[:5, :5]) + after[0], density(of, y, kernel), rtol=0, atol=1e-10
    )


def test_a_narrow_law_of_the_scale_is_a_gaussian_process() -> None:
    kernel, y = problem(8)
    narrow = inverse_gamma(1e5, 1e5)
    torch.testing.assert_close(density(narrow, y, kernel), density(One(), y, kernel), rtol=0, atol=1e-3)
    torch.testing.assert_close(narrow.given_values(y @ y, 8).mean(), torch.ones(()).double(), rtol=0, atol=1e-3)


def test_the_scale_follows_the_targets() -> None:
    quadratic, vague = torch.tensor(3.7).double(), inverse_gamma(1e-9, 1e-9)
    one, nine = vague.given_values(quadratic, 20).mean(), vague.given_values(9 * quadratic, 20).mean()
    torch.testing.assert_close(nine, 9 * one, rtol=1e-7, atol=0)


def test_draws_of_an_inverse_gamma_law_give_its_predictions() -> None:
    draws = torch.from_numpy(scipy.stats.invgamma.rvs(A, scale=B, size=200_000, random_state=0))
    quadratic, z = torch.tensor(6.0).double(), torch.linspace(-4, 4, 9).double()
    exact, drawn = inverse_gamma().given_values(quadratic, 5), Weighted(draws).given_values(quadratic, 5)
    values: list[Callable[[ScaleDistribution], Tensor]] = [
        lambda of: of.log_density(z**2, torch.zeros_like(z), 1),
        lambda of: of.cumulative(z),
        lambda of: of.mean(),
    ]
    for value in values:
        torch.testing.assert_close(value(drawn), value(exact), rtol=0, atol=1e-2)


def test_quantiles_are_those_of_burrs_law() -> None:
    burr = scipy.stats.burr12(2.0, 3.0)
    quantiles = Burr(2.0, 3.0, 400).quantiles
    assert burr.cdf(quantiles.numpy()) == pytest.approx((np.arange(400) + 0.5) / 400, abs=1e-12)
    y = torch.tensor([0.4], dtype=torch.float64)
    density_of_mixture = quad(lambda s: scipy.stats.norm.pdf(0.4, scale=math.sqrt(s)) * burr.pdf(s), 0, np.inf)[0]
    ours = float(density(Burr(2.0, 3.0, 4000).law(), y, torch.ones(1, 1).double()).exp())
    assert ours == pytest.approx(density_of_mixture, abs=1e-4)


def test_probabilities_are_those_of_the_densities() -> None:
    def at(z: float, of: ScaleDistribution) -> float:
        return float(of.log_density(torch.tensor(z * z, dtype=torch.float64), torch.zeros(()).double(), 1).exp())

    for of in (inverse_gamma(), One(), Burr(2.0, 3.0, 50).law()):
        below = quad(at, -60, 0.7, args=(of,))[0]
        assert float(of.cumulative(torch.tensor([0.7], dtype=torch.float64))[0]) == pytest.approx(below, abs=1e-5)
    assert float(inverse_gamma(1.0, 1.0).mean()) == math.inf
    assert float(inverse_gamma(3.0, 4.0).mean()) == pytest.approx(2.0)


@pytest.mark.parametrize("scale", [InverseGamma(A, B), FixedScale(), Burr()])
def test_gradients_of_the_loss_are_those_of_finite_differences(scale: Scale) -> None:
    kernel, y = problem()
    parameters = list(scale.parameters())

    def loss(jitter: Tensor, *_: Tensor) -> Tensor:
        known = factorise_kernel(kernel, y, jitter)
        return scale.law().log_density(known.quadratic, known.log_det, len(y))

    jitter = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (jitter, *parameters))


SHAPE, RATE, ALPHA, BETA = 2.7, 1.3, 2.0, 3.1


def inducing_problem() -> tuple[Tensor, Tensor, Tensor]:
    """Create a kernel of four inducing inputs and three points, and mu and S of two classes."""
    random = torch.Generator().manual_seed(0)
    root = torch.randn(7, 7, generator=random, dtype=torch.float64)
    mean = torch.randn(2, 4, generator=random, dtype=torch.float64)
    spread = torch.rand(2, 4, generator=random, dtype=torch.float64) + 0.1
    return root @ root.T + torch.eye(7), mean, spread


def test_points_follow_from_inducing_values() -> None:
    kernel, mean, spread = inducing_problem()
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
    kernel, mean, spread = inducing_problem()
    kzz = kernel[:4, :4]
    factor = torch.linalg.cholesky(kzz)

    def at_scale(s: float) -> float:
        ours = [MultivariateNormal(mean[c], s * spread[c].diag()) for c in range(2)]
        return float(sum(kl_divergence(q, MultivariateNormal(torch.zeros(4).double(), s * kzz)) for q in ours))

    assert float(inducing_divergence(factor, mean, spread, 1.0)) == pytest.approx(at_scale(1.0), rel=1e-10)
    inverse_gamma = scipy.stats.invgamma(SHAPE, scale=RATE)
    averaged = quad(lambda s: at_scale(s) * inverse_gamma.pdf(s), 1e-3, 60, limit=200)[0]
    assert float(inducing_divergence(factor, mean, spread, SHAPE / RATE)) == pytest.approx(averaged, rel=1e-3)
    nothing = inducing_divergence(torch.diag(spread[0].sqrt()), 0 * mean[:1], spread[:1], SHAPE / RATE)
    assert float(nothing) == pytest.approx(0, abs=1e-12)


def test_the_divergence_of_scales_is_its_integral_and_zero_for_the_prior() -> None:
    q, p = scipy.stats.invgamma(SHAPE, scale=RATE), scipy.stats.invgamma(ALPHA, scale=BETA)
    integral = quad(lambda s: q.pdf(s) * (q.logpdf(s) - p.logpdf(s)), 0, np.inf)[0]
    assert float(scale_divergence(inverse_gamma(SHAPE, RATE), ALPHA, BETA)) == pytest.approx(integral, abs=1e-7)
    assert float(scale_divergence(inverse_gamma(SHAPE, RATE), SHAPE, RATE)) == pytest.approx(0, abs=1e-14)
    assert integral > 0


def test_gradients_are_those_of_finite_differences() -> None:
    kernel, mean, spread = inducing_problem()

    def value(root: Tensor, mean: Tensor, spread: Tensor, a: Tensor, b: Tensor) -> Tensor:
        kernel = root @ root.T
        factor = torch.linalg.cholesky(kernel[:4, :4])
        at = projection(factor, kernel[:4, 4:], kernel.diagonal()[4:])
        centre, variance = marginals(at, mean, spread)
        bound = inducing_divergence(factor, mean, spread, a / b) + scale_divergence(InverseGammaLaw(a, b), 2.0, 3.0)
        return bound + centre.sum() + variance.log().sum()

    inputs = [
        torch.linalg.cholesky(kernel),
        mean,
        spread,
        *(torch.tensor(v, dtype=torch.float64) for v in (SHAPE, RATE)),
    ]
    assert torch.autograd.gradcheck(value, tuple(each.requires_grad_() for each in inputs))
