import pytest
import torch

from lightning_modules.probabilistic.meco.landscape import (
    ExponentialEnergy,
    LocationEnergy,
    contrast_curvature,
    likelihood_objective,
)

CURVATURE = {
    1: (2.13e-1, 6.13e-1),
    2: (5.69e-2, 5.26e-1),
    4: (2.06e-3, 1.80e-1),
    6: (3.82e-5, 2.11e-2),
    8: (3.47e-7, 8.40e-4),
    10: (1.43e-9, 1.16e-5),
}


@pytest.mark.parametrize("truth", CURVATURE)
def test_noise_contrast_is_flat_at_a_distant_truth(truth: int) -> None:
    assert contrast_curvature(truth) == pytest.approx(CURVATURE[truth], rel=5e-3)


@pytest.mark.parametrize("truth", [0.5, 2.0, 4.0])
def test_likelihood_is_a_parabola_wherever_the_truth_is(truth: float) -> None:
    for theta in (0.0, 1.0, 3.0):
        assert likelihood_objective(theta, truth) == pytest.approx((theta - truth) ** 2 / 2, abs=1e-8)
        slope = (likelihood_objective(theta + 1e-4, truth) - likelihood_objective(theta - 1e-4, truth)) / 2e-4
        assert slope == pytest.approx(theta - truth, abs=1e-6)


def test_energies_are_those_of_a_normal_law() -> None:
    x = torch.linspace(-2, 2, 9)[:, None]
    for network, constant in ((LocationEnergy(), 0.0), (ExponentialEnergy(), 0.5 * 1.5**2)):
        torch.nn.init.constant_(network.theta, 1.5)
        log_density = torch.distributions.Normal(1.5, 1.0).log_prob(x)
        torch.testing.assert_close(network(x) - constant - 0.9189385, log_density)
