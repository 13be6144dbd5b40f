import math

import pytest
import torch
from torch import Tensor

from lightning_modules.probabilistic.meco.noise_distributions import (
    GaussianMixtureNoise,
    GaussianNoise,
    NoiseDistribution,
    UniformDistribution,
)


def drawn(law: NoiseDistribution, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return law.sample(n, lambda kind, shape: kind(shape, generator=generator, dtype=torch.float64))


def two_groups() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(3000, 2, generator=generator, dtype=torch.float64)
    return torch.where(
        torch.arange(3000)[:, None] < 1000, 0.3 * points + 3, points @ torch.tensor([[1, 0.5], [0, 1.0]]).double()
    )


@pytest.mark.parametrize(
    "law", [GaussianNoise(2, widened=1.5), GaussianMixtureNoise(2, components=2, added_variance=0.0)]
)
def test_a_fitted_law_has_the_datas_moments_and_its_density_integrates_to_one(law: GaussianMixtureNoise) -> None:
    points = two_groups()
    law.fit(points)
    sample = drawn(law, 200_000)
    widened = 1.5 if isinstance(law, GaussianNoise) else 1.0
    torch.testing.assert_close(sample.mean(0), points.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(sample.T.cov(), widened * points.T.cov(), atol=0.05, rtol=0)
    axis = torch.linspace(-12, 14, 800, dtype=torch.float64)
    density = law.log_density(torch.cartesian_prod(axis, axis)).exp()
    assert float(density.sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=1e-3)
    exact = torch.distributions.MultivariateNormal(law.mean, scale_tril=law.factor)
    mixture = (exact.log_prob(points[:5, None]) + law.log_share).logsumexp(1)
    torch.testing.assert_close(law.log_density(points[:5]), mixture)


def test_importance_weights_have_the_closed_forms_moments() -> None:
    t, s = 0.7, 1.5
    law = GaussianNoise(1, std=s)
    z = drawn(law, 400_000)
    weight = (-((z[:, 0] - t) ** 2) / 2 - law.log_density(z)).exp()
    assert float(weight.mean()) == pytest.approx(math.sqrt(2 * math.pi), rel=0.01)
    second = s * math.sqrt(2 * math.pi) * math.sqrt(math.pi / (1 - 1 / (2 * s**2))) * math.exp(t**2 / (2 * s**2 - 1))
    assert float(weight.square().mean()) == pytest.approx(second, rel=0.02)


def test_uniform_noise_has_no_density_outside() -> None:
    law = UniformDistribution(3)
    assert drawn(law, 50).shape == (50, 3)
    assert law.log_density(torch.tensor([[0.5, 0.2, 1.0], [0.5, 0.2, 1.1]])).tolist() == [0, -math.inf]
