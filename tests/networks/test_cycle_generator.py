from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_modules.networks.cycle_generator import ResNetGenerator, UNetGenerator
from lightning_modules.networks.patch_discriminator import PatchDiscriminator


@pytest.mark.parametrize(("num_downsamplings", "pixels"), [(2, 34), (3, 70)])
def test_a_score_sees_a_patch(num_downsamplings: int, pixels: int) -> None:
    network = PatchDiscriminator(1, 2, num_downsamplings).double()
    plain = nn.Sequential(*[layer for layer in network.features if not isinstance(layer, nn.InstanceNorm2d)])
    image = torch.randn(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    score = network.last(plain(image))
    score[0, 0, score.shape[2] // 2, score.shape[3] // 2].backward()
    assert image.grad is not None
    seen = image.grad[0, 0] != 0
    assert (int(seen.any(dim=0).sum()), int(seen.any(dim=1).sum())) == (pixels, pixels)


@pytest.mark.parametrize(
    "network", [ResNetGenerator(2, 3, 4, 1), UNetGenerator(2, 3, 4, 3), PatchDiscriminator(2, 4, 2)], ids=type
)
def test_the_last_layer_stands_apart(network: nn.Module) -> None:
    image = torch.randn(2, 2, 32, 24)
    features = network.forward_features(image)  # type: ignore[operator]
    assert features.shape[1] == network.num_features
    torch.testing.assert_close(network.last(features), network(image), rtol=0, atol=0)  # type: ignore[operator]
    if not isinstance(network, PatchDiscriminator):
        assert network(image).shape == (2, 3, 32, 24)


@pytest.mark.parametrize("make", [lambda: ResNetGenerator(1, 1, 4, 1), lambda: PatchDiscriminator(1, 4, 2)])
def test_samples_of_a_batch_are_apart(make: Callable[[], nn.Module]) -> None:
    network, image = make().double(), torch.randn(3, 1, 32, 32, dtype=torch.float64)
    whole = network(image)
    torch.testing.assert_close(network(image[1:2]), whole[1:2])


def test_the_unet_brings_details_round_its_narrowest_place() -> None:
    network, image = UNetGenerator(1, 1, 4, 3), torch.randn(1, 1, 32, 32)
    deepest = network.down[-1]
    nn.init.zeros_(deepest[0].weight)
    other = network(torch.randn(1, 1, 32, 32))
    assert not torch.equal(network(image), other)
