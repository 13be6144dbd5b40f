import pytest
import torch

from lightning_modules.baselines.noise2noise import Noise2Noise
from tests.baselines.restoration import Restored, gradient_of_a_step

CLEAN = torch.rand(3, 1, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_step_fits_the_second_noisy_images() -> None:
    first, second = CLEAN + 0.1 * torch.randn(2, *CLEAN.shape, dtype=torch.float64)
    error = 0.75 * first - second
    loss, [gradient] = gradient_of_a_step(Noise2Noise(Restored()), {"noisy": first, "second_noisy": second})
    assert loss == pytest.approx(float(error.square().mean()), abs=1e-12)
    assert float(gradient) == pytest.approx(float((2 * error * first).mean()), abs=1e-12)


def test_in_the_mean_over_noise_the_gradient_is_that_of_clean_images() -> None:
    """The noise of the second image is used with both signs, so that the mean over this noise is exact."""
    noise = 0.1 * torch.randn(CLEAN.shape, dtype=torch.float64)
    module = Noise2Noise(Restored())
    first = CLEAN + noise.flip(3)
    steps = [gradient_of_a_step(module, {"noisy": first, "second_noisy": CLEAN + s * noise})[1][0] for s in (1, -1)]
    expected = (2 * (0.75 * first - CLEAN) * first).mean()
    torch.testing.assert_close((steps[0] + steps[1]) / 2, expected)
