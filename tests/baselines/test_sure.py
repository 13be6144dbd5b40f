import pytest
import torch
from torch import nn

from datamodules.corruptions.image_noise import Gaussian
from lightning_modules.baselines.sure import SURE, sure
from tests.baselines.restoration import Restored, gradient_of_a_step
from tests.trainers import standing


def test_a_step_with_a_multiple_is_the_closed_form() -> None:
    """For any random signs, the divergence of the estimate a y is a times the number of values in y."""
    noisy, v = torch.rand(3, 2, 8, 8, dtype=torch.float64), (25 / 255) ** 2
    loss, [gradient] = gradient_of_a_step(SURE(Restored(), Gaussian(25)), {"noisy": noisy})
    square = float(noisy.square().mean())
    assert loss == pytest.approx(0.25**2 * square - v + 2 * v * 0.75, abs=1e-10)
    assert float(gradient) == pytest.approx(-2 * 0.25 * square + 2 * v, abs=1e-10)


def test_the_mean_over_noise_and_signs_is_the_squared_error_to_the_clean_image() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)).double()
    clean, sigma, count = torch.rand(1, 1, 6, 6, dtype=torch.float64), 0.5, 4000
    noisy = clean + sigma * torch.randn(count, 1, 6, 6, dtype=torch.float64)
    sign = torch.randint(2, noisy.shape).double() * 2 - 1
    with torch.no_grad():
        error = (network(noisy) - clean).square().flatten(1).mean(dim=1)
        found = float(sure(network, noisy, sign, sigma, 1e-5))
        plain = float((network(noisy) - noisy).square().mean()) - sigma**2
    allowed = 4 * (0.1 * float(error.std()) + sigma**2 * (2 / 36) ** 0.5 * 2) / count**0.5
    assert found == pytest.approx(float(error.mean()), abs=allowed)
    assert abs(plain - float(error.mean())) > 3 * allowed


def test_noise_of_the_data_and_a_range_of_levels_are_rejected() -> None:
    with pytest.raises(ValueError, match="epsilon must be positive, got 0"):
        SURE(Restored(), Gaussian(25), epsilon=0.0)
    with pytest.raises(ValueError, match="is a range, but this computation needs a single level"):
        SURE(Restored(), Gaussian((5, 50)))
    module = SURE(Restored(), Gaussian(25))
    module.trainer = standing(datamodule=type("Data", (), {"noise": Gaussian(50)})())
    with pytest.raises(ValueError, match="they must match"):
        module.setup("fit")
