import math

import pytest
import torch

from datamodules.classification.two_gaussians import TwoGaussians


def test_classes_are_gaussians_with_opposite_means_of_length_one() -> None:
    images = TwoGaussians(num_images=4000, num_pixels=100, sigma=0.4, reach=2.5)
    part = images.training()
    assert part.image.shape == (4000, *images.image_shape)
    x = (part.image[:, 0, 0].double() / 255 - 0.5) * 5
    sign = 2.0 * part.label.double() - 1
    centred = sign[:, None] * x - 0.1
    assert abs(float(centred.mean())) < 4 * 0.4 / math.sqrt(400_000)
    assert float(centred.std()) == pytest.approx(0.4, abs=0.002)
    covariance = centred.T @ centred / 4000
    assert float((covariance - 0.16 * torch.eye(100)).abs().max()) < 0.02
    assert 0.45 < float(part.label.double().mean()) < 0.55
