import math

import numpy as np
import pytest
import torch

from datamodules.classification.two_gaussians import TwoGaussians
from datamodules.corruptions.label_noise import Symmetric


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


def test_a_linear_model_learns_early_and_memorises_later() -> None:
    """Section 3 of the paper: the first gradient points along v, and gradient descent finally fits every false label.

    With labels -1 and 1, the expected gradient at 0 is -(1 - Delta) v / 2; the remainder has length sigma sqrt(p / n) /
    2.
    """
    part = TwoGaussians().training()
    x = (part.image[:, 0, 0].double() / 255 - 0.5).numpy() * 4
    true = 2.0 * part.label.numpy() - 1
    noise = Symmetric(noise_rate=0.4, seed=0)
    given = 2.0 * np.asarray(noise.apply(part.label, 2)) - 1
    wrong = given != true
    assert 0.15 < wrong.mean() < 0.25
    theta, curve, first = np.zeros(450), [], None
    for _ in range(300):
        gradient = -(given / (1 + np.exp(given * (x @ theta)))) @ x / 500
        first = gradient if first is None else first
        theta = theta - gradient
        curve.append((np.mean(((x @ theta) * true > 0)[wrong]), np.mean(((x @ theta) * given > 0)[wrong])))
    along = -first.sum() / math.sqrt(450) / np.linalg.norm(first)
    assert along == pytest.approx(0.6 / math.hypot(0.6, 0.3 * math.sqrt(0.9)), abs=0.03)
    assert max(right for right, _ in curve[:5]) > 0.97
    assert curve[-1][1] > 0.97
