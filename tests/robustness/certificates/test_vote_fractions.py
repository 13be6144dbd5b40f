"""The exported smoothed classifier counts the same votes as certification."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.robustness.certificates.vote_fractions import exported_votes, vote_fractions
from lightning_modules.robustness.certificates.votes import GaussianSmoothing


class TwoVotes:
    """The first vote is the sign of the noisy pixel, and the second is always class 2."""

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        noisy = (image + sigma * noise).flatten(1)
        first = torch.cat([noisy, -noisy, torch.full_like(noisy, -100.0)], dim=1)
        return torch.stack([first, torch.tensor([0.0, 0.0, 1.0]).expand_as(first)])


def test_fractions_count_the_votes_of_every_pair_of_image_and_noise() -> None:
    image = torch.tensor([0.5, -0.3, 2.0]).view(3, 1, 1, 1)
    noise = torch.tensor([-1.0, 0.1, 0.2, -3.0]).view(4, 1, 1, 1)
    smoothed: Any = TwoVotes()
    # image + noise > 0 for 2, 0 and 3 of the four noise samples; half of the votes are for class 2
    expected = torch.tensor([[2, 2, 4], [0, 4, 4], [3, 1, 4]]) / 8
    torch.testing.assert_close(vote_fractions(smoothed, image, noise, 1.0), expected)


def test_at_sigma_0_all_votes_are_for_the_prediction() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 5))
    image, noise = torch.rand(6, 1, 2, 2), torch.randn(3, 1, 2, 2)
    fractions = vote_fractions(GaussianSmoothing(network), image, noise, 0.0)
    assert torch.equal(fractions, torch.nn.functional.one_hot(network(image).argmax(dim=1), 5).float())


def test_the_exported_function_names_its_noise_level() -> None:
    exported = exported_votes(TwoVotes(), 0.25)
    assert list(exported.inputs) == ["image", "noise"]
    assert exported.inputs["noise"].sample is torch.randn
    assert "0.25" in exported.description
    with pytest.raises(TypeError):
        exported.function(torch.rand(1, 1, 1, 1))
