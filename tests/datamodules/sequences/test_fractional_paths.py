"""Paths with known H: their distribution, their random numbers, and videos of them."""

from typing import Any

import pytest
import torch

from datamodules.sequences.fractional_motion import pulled_covariance
from datamodules.sequences.fractional_paths import FractionalBalls, FractionalPaths


def test_paths_have_the_law_of_the_pulled_motion_and_errors() -> None:
    law = FractionalPaths(0.3, theta=2.0, scale=3.0, sigma=0.5, num_times=6, interval=0.2, num_training=20_000, seed=1)
    observed = law.training().fetch(torch.arange(20_000), 0)
    expected = 9 * pulled_covariance(0.2, 6, 0.3, "I", 2.0) + 0.25 * torch.eye(6)
    for d in range(2):
        torch.testing.assert_close(observed[:, :, d].T.cov(), expected, rtol=0, atol=0.2)
    assert observed.flatten(1).T.corrcoef()[1::2, ::2].diagonal().abs().max() < 0.03  # coordinates are independent
    assert law.training().truth["sigma"].tolist() == [0.5] * 6


def test_a_path_follows_from_seed_split_visit_and_position_alone() -> None:
    law = FractionalPaths(0.7, num_times=5, seed=1)
    training, test = law.training(), law.test()
    whole = training.fetch(torch.arange(8), 2)
    assert torch.equal(training.fetch(torch.tensor([6, 3]), 2), whole[[6, 3]])
    others = [training.fetch(torch.arange(8), 3), test.fetch(torch.arange(8), 2)]
    others.append(FractionalPaths(0.7, num_times=5, seed=2).training().fetch(torch.arange(8), 2))
    assert all(not torch.isclose(other, whole).any() for other in others)


def test_a_ball_is_where_the_path_is() -> None:
    settings: dict[str, Any] = {"scale": 0.5, "num_times": 4, "interval": 0.2, "seed": 4}
    videos = FractionalBalls(0.7, radius=0.1, image_size=81, **settings).training().fetch(torch.arange(5), 0)
    assert videos.shape == (5, 4, 1, 81, 81)
    assert videos.dtype == torch.float32
    path = FractionalPaths(0.7, sigma=1e-12, **settings).training().fetch(torch.arange(5), 0)
    grid = torch.linspace(-1, 1, 81)
    mass = videos[:, :, 0].double()
    row = (mass.sum(dim=3) * grid).sum(dim=2) / mass.sum(dim=(2, 3))
    column = (mass.sum(dim=2) * grid).sum(dim=2) / mass.sum(dim=(2, 3))
    assert path.abs().max() < 0.7  # no ball is cut off
    torch.testing.assert_close(torch.stack([row, column], dim=2), path, rtol=0, atol=1e-4)
    assert float(videos[0, 0].max()) == 1  # the centre of the ball
    assert float(videos[0, 0, 0, 40, 44]) == pytest.approx(0.6065, abs=1e-4)  # one radius away from the centre
