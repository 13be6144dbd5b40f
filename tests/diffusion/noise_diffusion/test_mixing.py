"""Weights and mixtures of NoiseDiffusion compared with special cases and expectations."""

import math

import pytest
import torch
from torch import Tensor

from lightning_modules.diffusion.noise_diffusion.mixing import corrected_mixture, lerp, mixing_weights, slerp

POSITIONS = torch.tensor([0.0, 0.17, 0.5, 0.83, 1.0], dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal_latents() -> tuple[Tensor, Tensor]:
    """Return orthogonal latents of equal norm."""
    first, second = randn(3, 1, 8, 8), randn(3, 1, 8, 8, seed=1)
    a, b = first.flatten(1), second.flatten(1)
    b = b - (a * b).sum(1, keepdim=True) / (a * a).sum(1, keepdim=True) * a
    b = b * a.norm(dim=1, keepdim=True) / b.norm(dim=1, keepdim=True)
    return first, b.view_as(first)


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_weights_keep_the_variance_and_share_the_signal(gamma: float) -> None:
    alpha, beta, mu, nu = mixing_weights(POSITIONS, gamma, 1.2)
    torch.testing.assert_close(alpha**2 + beta**2 + gamma**2, torch.ones_like(alpha))
    torch.testing.assert_close(mu + nu, torch.full_like(mu, 1.2))
    inside = slice(1, -1)
    torch.testing.assert_close(alpha[inside] / beta[inside], 1 / (POSITIONS[inside] * math.pi / 2).tan())
    torch.testing.assert_close(mu[inside] / nu[inside], alpha[inside] / beta[inside])
    torch.testing.assert_close(alpha[2], beta[2])
    torch.testing.assert_close(mu[2], torch.tensor(0.6, dtype=torch.float64))
    assert (beta[0], nu[0]) == (0, 0)
    assert (mu[-1] < 1e-12, nu[-1]) == (True, 1.2)


def test_slerp_keeps_ends_and_norm_and_is_symmetric() -> None:
    first, second = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1)
    mixture = slerp(first, second, POSITIONS)
    torch.testing.assert_close(mixture[:, 0], first, rtol=0, atol=1e-7)
    torch.testing.assert_close(mixture[:, -1], second, rtol=0, atol=1e-7)
    torch.testing.assert_close(mixture, slerp(second, first, 1 - POSITIONS).clone(), rtol=0, atol=1e-12)
    equal = second * (first.flatten(1).norm(dim=1) / second.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    norms = slerp(first, equal, POSITIONS).flatten(2).norm(dim=2)
    torch.testing.assert_close(norms, norms[:, :1].expand_as(norms))
    torch.testing.assert_close(slerp(first[:1], second[:1], POSITIONS), mixture[:1])  # each pair has a different angle
    assert slerp(first.float(), second.float(), POSITIONS).dtype == torch.float32


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
def test_parallel_latents_stay_finite(factor: float) -> None:
    first = randn(1, 1, 4, 4)
    mixture = slerp(first, factor * first, POSITIONS)
    assert mixture.isfinite().all()
    if factor > 0:
        torch.testing.assert_close(mixture, lerp(first, factor * first, POSITIONS), rtol=1e-3, atol=0)


def test_without_correction_it_is_slerp_of_orthogonal_latents() -> None:
    """With mu = alpha and nu = beta, or with z = 0, no image signal is added back."""
    first, second = orthogonal_latents()
    zero = torch.zeros_like(first)
    mixture = corrected_mixture(first, second, zero, zero, randn(3, 1, 8, 8), POSITIONS, 0.1, math.inf, 0.0, 1.2)
    torch.testing.assert_close(mixture, slerp(first, second, POSITIONS), rtol=0, atol=1e-6)


def test_noise_alone_is_sdedit_of_a_linear_mixture() -> None:
    l_a, l_b, z_a, z_b, noise = (randn(2, 1, 3, 3, seed=k) for k in range(5))
    mixture = corrected_mixture(l_a, l_b, z_a, z_b, noise, POSITIONS[2:3], 0.1, math.inf, 1.0, 1.0)
    torch.testing.assert_close(mixture[:, 0], math.sqrt(0.1) * (z_a + z_b) / 2 + math.sqrt(0.9) * noise)


def test_mixtures_are_clipped_and_otherwise_linear() -> None:
    tensors = [3 * randn(2, 1, 3, 3, seed=k) for k in range(5)]
    clipped = corrected_mixture(*tensors, POSITIONS, 0.3, 2.0, 0.2, 1.2)
    assert clipped.abs().max() == 2

    def mixture(scale: float, l_a: Tensor, l_b: Tensor, noise: Tensor) -> Tensor:
        zero = torch.zeros_like(l_a)
        return corrected_mixture(
            scale * l_a, scale * l_b, zero, zero, scale * noise, POSITIONS, 0.3, math.inf, 0.2, 1.2
        )

    one, other = tensors[:3], [randn(2, 1, 3, 3, seed=k) for k in range(5, 8)]
    both = [a + b for a, b in zip(one, other, strict=True)]
    torch.testing.assert_close(mixture(2.0, *both), 2 * mixture(1.0, *one) + 2 * mixture(1.0, *other))


def test_latents_are_clipped_before_they_are_mixed() -> None:
    """A value of 4 is clipped to 2, although the mixture would stay below 2 without clipping."""
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    mixture = corrected_mixture(zero + 4, zero - 4, zero, zero, zero, POSITIONS[1:2], 0.3, 2.0, 0.0, 1.2)
    alpha, beta, *_ = mixing_weights(POSITIONS[1:2], 0.0, 1.2)
    torch.testing.assert_close(mixture.flatten(), 2 * alpha - 2 * beta)


def test_swapped_images_give_the_mirrored_row() -> None:
    l_a, l_b, z_a, z_b, noise = (randn(2, 1, 3, 3, seed=k) for k in range(5))
    row = corrected_mixture(l_a, l_b, z_a, z_b, noise, POSITIONS, 0.2, 2.0, 0.3, 1.2)
    mirrored = corrected_mixture(l_b, l_a, z_b, z_a, noise, 1 - POSITIONS, 0.2, 2.0, 0.3, 1.2)
    torch.testing.assert_close(row, mirrored)


def test_the_mean_of_a_mixture_is_the_injected_signal() -> None:
    abar, n = 0.2, 40_000
    z_a, z_b = torch.tensor(0.8, dtype=torch.float64), torch.tensor(-0.5, dtype=torch.float64)
    shape = (n, 1, 1, 1)
    l_a, l_b = (abar**0.5 * z + (1 - abar) ** 0.5 * randn(*shape, seed=k) for k, z in enumerate((z_a, z_b)))
    mixture = corrected_mixture(
        l_a, l_b, z_a.expand(shape), z_b.expand(shape), randn(*shape, seed=3), POSITIONS, abar, math.inf, 0.3, 1.2
    )
    _, _, mu, nu = mixing_weights(POSITIONS, 0.3, 1.2)
    expected = abar**0.5 * (mu * z_a + nu * z_b)
    torch.testing.assert_close(mixture.mean(dim=(0, 2, 3, 4)), expected, rtol=0, atol=4 / math.sqrt(n))
    noise = mixture.var(dim=0).flatten()  # alpha^2 + beta^2 + gamma^2 = 1 times the variance of the noise
    torch.testing.assert_close(noise, torch.full_like(noise, 1 - abar), rtol=0.03, atol=0)
