import math

import torch

from lightning_modules.robustness.smoothed_training.noisy_copies import noisy_copies


def test_copies_are_independent_and_have_the_stated_noise_level() -> None:
    torch.manual_seed(0)
    image = torch.full((4, 1, 64, 64), 0.5)
    noise = noisy_copies(image, sigma=0.25, num_copies=2) - image
    assert noise.shape == (2, 4, 1, 64, 64)
    torch.testing.assert_close(noise.std(), torch.tensor(0.25), rtol=0.02, atol=0)
    correlation = (noise[0] * noise[1]).mean() / 0.25**2
    assert abs(correlation) < 4 / math.sqrt(noise[0].numel())


def test_copies_are_not_clipped() -> None:
    copies = noisy_copies(torch.ones(2, 1, 8, 8, dtype=torch.float64), sigma=1.0, num_copies=3)
    assert copies.dtype == torch.float64
    assert copies.max() > 2
    assert copies.min() < 0
