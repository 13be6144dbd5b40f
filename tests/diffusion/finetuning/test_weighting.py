from typing import Any

import pytest
import torch

from lightning_modules.diffusion.finetuning.weighting import mean_over_images, min_snr_weight
from lightning_modules.sde.discrete import Prediction, add_diffusion_noise, clean_estimate, diffusion_target


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_image_itself_counts_the_clipped_ratio_whatever_is_predicted(prediction: Prediction) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(5, 1, 2, 2, generator=generator, dtype=torch.float64) for _ in range(3)]
    image, noise, off = draw
    abar = torch.tensor([0.01, 0.3, 0.7, 0.9, 0.999], dtype=torch.float64).view(-1, 1, 1, 1)
    target = diffusion_target(image, noise, abar, prediction)
    estimate = clean_estimate(target + off, add_diffusion_noise(image, noise, abar), abar, prediction)
    ratio = abar / (1 - abar)
    expected = ratio.clamp(max=5.0) * (estimate - image).square()
    torch.testing.assert_close(min_snr_weight(abar, 5.0, prediction) * off.square(), expected)


def test_the_weight_of_a_set_multiplies_the_loss_and_does_not_normalise_it() -> None:
    loss = torch.tensor([3.0, 5.0, 7.0], dtype=torch.float64)
    batch: Any = {"image_weight": torch.tensor([1.0, 0.5, 0.0])}
    assert mean_over_images(loss, batch).item() == pytest.approx((3 + 2.5) / 3)
    batch.clear()
    assert mean_over_images(loss, batch).item() == 5
