"""Deep Image Prior and Self2Self are tested in tests/baselines, ScoreDVI in tests/denoising/scoredvi."""

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.tasks.single_image import SingleImageBaseline, with_new_weights


class Drawn(SingleImageBaseline):
    """A method that takes a step of gradient descent, and then adds random numbers to the image."""

    def fitted_estimate(self, noisy: Tensor) -> Tensor:
        network = with_new_weights(nn.Conv2d(1, 1, 1).requires_grad_(False).eval())
        assert network.training
        network(noisy).sum().backward()
        return noisy + torch.randn_like(noisy)


def test_images_are_fitted_one_by_one_from_the_generator_alone() -> None:
    noisy, before = torch.zeros(2, 1, 3, 4, dtype=torch.float16), torch.get_rng_state()
    with torch.inference_mode():
        found = [Drawn().restore(noisy, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0][0], found[0][1])


def test_a_copy_has_new_weights_and_the_template_keeps_its_own_and_fit_is_rejected() -> None:
    template = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).requires_grad_(False)
    kept = template[0].weight.clone()
    copy = with_new_weights(template)
    assert torch.equal(template[0].weight, kept)
    assert not torch.equal(copy[0].weight, kept)
    assert all(weight.requires_grad for weight in copy.parameters())
    with pytest.raises(ValueError, match="Drawn has no training set: run test or predict, which fit a network"):
        Drawn().setup("fit")
