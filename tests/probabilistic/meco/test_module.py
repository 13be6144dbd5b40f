import math

import pytest
import torch

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.tables.planar_densities import NormalNumbers
from datamodules.tables.tables import Tables
from lightning_modules.networks.mlp import MLP
from lightning_modules.probabilistic.meco import MECO
from lightning_modules.probabilistic.meco.landscape import ExponentialEnergy
from lightning_modules.probabilistic.meco.module import relative_variance
from lightning_modules.probabilistic.meco.noise_distributions import (
    GaussianMixtureNoise,
    GaussianNoise,
    UniformDistribution,
)
from lightning_modules.probabilistic.meco.objectives import MovingAverage
from tests.trainers import quiet


def test_the_constant_of_a_normal_law_is_found_on_the_grid_and_by_draws() -> None:
    class Round(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -self.scale * x.square().sum(1, keepdim=True) / 2

    for half_width in (6.0, None):
        module = MECO(Round(), GaussianNoise(2, std=1.5), MovingAverage(), grid_half_width=half_width)
        with torch.no_grad():
            assert float(module.log_partition()) == pytest.approx(math.log(2 * math.pi), abs=0.01)
    # each of two coordinates has the second moment s / sqrt(2 - 1 / s^2), for weights relative to their mean
    expected = (1.5 / math.sqrt(2 - 1 / 1.5**2)) ** 2 - 1
    assert float(relative_variance(module.log_weights())) == pytest.approx(expected, rel=0.05)


def test_errors_of_the_last_epoch_and_the_curvature_are_reported() -> None:
    module = MECO(ExponentialEnergy(), GaussianNoise(1, std=2.0), MovingAverage(), evaluation_draws=1000)
    trainer = quiet(max_epochs=2)
    trainer.fit(module, data := Tables(NormalNumbers(1.0, samples=40, test_samples=20), batch_size=10))
    assert module.squared_errors[1] == 4  # steps of one epoch
    [metrics] = trainer.test(module, data, verbose=False)
    assert metrics["test/parameter_rmse"] == pytest.approx(float(module.squared_errors[0] / 4) ** 0.5)
    assert set(module.tables) == {"curvature"}
    assert module.tables["curvature"].columns["least_curvature"][0] == pytest.approx(0.213, rel=0.01)


def test_images_are_drawn_near_what_the_energy_prefers() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), MLP(4, [], 1))
    torch.nn.init.constant_(network[1].layers[0].weight, 200.0)  # brighter images are more likely
    module = MECO(network, UniformDistribution(4), MovingAverage(), image_shape=[1, 2, 2], langevin_steps=50)
    with torch.inference_mode():
        images = module.sample(64, torch.Generator().manual_seed(0))
    assert images.shape == (64, 1, 2, 2)
    assert float(images.mean()) > 0.95
    module.image_shape = None
    with pytest.raises(ValueError, match="MECO can only sample images if it models a density of images"):
        module.sample(2)


def test_noise_is_fitted_to_images_in_the_unit_interval() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), MLP(64, [], 1))
    noise = GaussianMixtureNoise(64, components=1)
    module = MECO(network, noise, MovingAverage(), image_shape=[1, 8, 8], evaluation_draws=100)
    quiet(max_epochs=1, limit_train_batches=1).fit(module, LabelledImages(digits := Digits(), batch_size=64))
    stored = digits.training().image.double().flatten(1).mean(dim=0)
    torch.testing.assert_close(noise.mean[0], stored / 16, rtol=0, atol=1e-6)


def test_the_log_density_is_normalised() -> None:
    """The energy -(x - theta)^2 / 2 gives a normal density; the points lie on a fine grid."""
    network = torch.nn.Sequential(torch.nn.Linear(1, 1), Square())
    torch.nn.init.constant_(network[0].weight, 1.0)
    torch.nn.init.constant_(network[0].bias, -1.0)
    module = MECO(network, GaussianNoise(1, std=2.0), MovingAverage(), evaluation_draws=50_000).double()
    points = torch.linspace(-3, 5, 9, dtype=torch.float64)[:, None]
    expected = torch.distributions.Normal(1.0, 1.0).log_prob(points[:, 0])
    torch.testing.assert_close(module.log_density(points), expected, rtol=0, atol=0.05)


class Square(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x.square() / 2
