import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Dirichlet, Gamma, kl_divergence

from lightning_modules.denoising.scoredvi.elbo import (
    divergence_of_component,
    divergence_of_precision,
    divergence_of_weight,
    prior_term,
    reconstruction,
    with_score,
)

K, C, H, W = 3, 2, 4, 5


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def rho() -> Tensor:
    return numbers(0, 1, K, C, H, W).softmax(dim=1)


def test_the_precisions_divergence_is_that_of_gamma_distributions(rho: Tensor) -> None:
    log_alpha, log_beta = numbers(1, 1, K, C, H, W), numbers(2, 1, K, C, H, W)
    prior = Gamma(torch.tensor(1.3, dtype=torch.float64), torch.tensor(0.02, dtype=torch.float64))
    expected = (kl_divergence(Gamma(log_alpha.exp(), log_beta.exp()), prior) * rho).sum(dim=1).mean()
    torch.testing.assert_close(divergence_of_precision(log_alpha, log_beta, rho, 1.3, 0.02), expected)
    same = torch.full_like(log_alpha, math.log(1.3)), torch.full_like(log_alpha, math.log(0.02))
    assert divergence_of_precision(*same, rho, 1.3, 0.02).abs() < 1e-12


def test_the_weights_divergence_is_that_of_dirichlet_distributions() -> None:
    d = numbers(3, 1, K, C, H, W).exp()
    last = d.movedim(1, -1)
    expected = kl_divergence(Dirichlet(last), Dirichlet(torch.ones_like(last))).mean()
    torch.testing.assert_close(divergence_of_weight(d), expected)
    assert divergence_of_weight(torch.ones_like(d)).abs() < 1e-12


def test_the_components_divergence_at_equal_weights() -> None:
    equal = torch.full((1, 3, C, H, W), 1 / 3, dtype=torch.float64)
    expected = -math.log(3) + 1.5  # psi(3) - psi(1) = 3 / 2
    assert divergence_of_component(equal, torch.ones_like(equal)).item() == pytest.approx(expected, abs=1e-7)


def test_reconstruction_is_the_expected_log_likelihood(rho: Tensor) -> None:
    """Compare with the mean over samples of precision and image, up to the constant log(2 pi) / 2."""
    y, mu = numbers(4, 1, 1, C, H, W), numbers(5, 1, K, C, H, W)
    variance = 0.5 * numbers(6, 1, K, C, H, W).exp()
    log_alpha, log_beta = 0.3 * numbers(7, 1, K, C, H, W), 0.3 * numbers(8, 1, K, C, H, W)
    torch.manual_seed(0)
    precision = Gamma(log_alpha.exp(), log_beta.exp()).sample((20_000,))
    image = mu + variance.sqrt() * torch.randn(20_000, *mu.shape[1:], dtype=torch.float64)[:, None]
    likelihood = (0.5 * precision.log() - 0.5 * precision * (image - y).square()).mean(dim=0)
    expected = -(likelihood * rho).sum(dim=1).mean()
    found = reconstruction(y, mu, variance, log_alpha, log_beta, rho)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


def test_the_score_multiplies_the_gradient_and_leaves_the_value() -> None:
    x = numbers(9, 4).requires_grad_()
    score = numbers(10, 4).requires_grad_()
    value = with_score(x, score)
    assert torch.equal(value, x)
    gradients = torch.autograd.grad(value.square().sum(), [x, score], allow_unused=True)
    torch.testing.assert_close(gradients[0], 2 * x.detach() * score.detach())
    assert gradients[1] is None


class Prior(nn.Module):
    """The exact denoiser for N(m, t2) images with noise of variance s2."""

    def __init__(self, m: float, t2: float, s2: float) -> None:
        super().__init__()
        self.m, self.t2, self.s2 = m, t2, s2

    def forward(self, x: Tensor) -> Tensor:
        return (self.t2 * x + self.s2 * self.m) / (self.t2 + self.s2)


@pytest.mark.parametrize("chunk", [1, 5])
def test_gradients_of_the_prior_are_minus_the_scores(rho: Tensor, chunk: int) -> None:
    """For N(m, t2) images and sigma_k^2 = s2, the score of each draw is (m - x) / (t2 + s2)."""
    s2, priors = [0.2, 0.3, 0.5], [(0.1, 0.4), (0.3, 0.2), (-0.2, 0.6)]
    mu = numbers(11, 1, K, C, H, W).requires_grad_()
    log_variance = torch.tensor(s2, dtype=torch.float64).log()[None, :, None, None, None].expand(1, K, C, H, W)
    log_variance = log_variance.clone().requires_grad_()
    normal = numbers(12, 5, K, C, H, W)
    denoisers = [Prior(m, t2, s) for (m, t2), s in zip(priors, s2, strict=True)]
    loss = prior_term(mu, log_variance, rho, normal, denoisers, chunk)
    of_mu, of_variance = torch.autograd.grad(loss, [mu, log_variance])
    for k, ((m, t2), s) in enumerate(zip(priors, s2, strict=True)):
        draw = mu[:, k].detach() + math.sqrt(s) * normal[:, k]
        score = (m - draw) / (t2 + s)
        torch.testing.assert_close(of_mu[:, k], -rho[:, k] * score.mean(dim=0, keepdim=True) / (C * H * W))
        # d x / d log s2 = sqrt(s2) e / 2
        moved = (score * 0.5 * math.sqrt(s) * normal[:, k]).mean(dim=0, keepdim=True)
        torch.testing.assert_close(of_variance[:, k], rho[:, k] * (-0.5 - moved) / (C * H * W))
