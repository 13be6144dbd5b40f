from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_modules.backbones import Normalized
from lightning_modules.networks.unet import UNet
from tests.networks.compared import count, rectified, warmed


@pytest.mark.parametrize(("in_channels", "num_classes", "parameters"), [(3, 1, 17_267_393), (1, 5, 17_266_501)])
def test_the_parameters_are_those_of_the_authors_layout(in_channels: int, num_classes: int, parameters: int) -> None:
    with torch.device("meta"):
        network = UNet(in_channels, num_classes)
    assert count(network) == parameters
    shapes = [tuple(module.weight.shape) for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert shapes[-3:] == [(64, 128, 3, 3), (64, 64, 3, 3), (num_classes, 64, 1, 1)]


def functional(state: dict[str, Tensor], image: Tensor, levels: int) -> Tensor:
    """Compute the network step by step with running statistics, and interpolate rows and columns by matrices."""

    def convolutions(x: Tensor, name: str) -> Tensor:
        for conv, norm in ((0, 1), (3, 4)):
            x = F.conv2d(x, state[f"{name}.{conv}.weight"], state[f"{name}.{conv}.bias"], padding=1)
            x = rectified(state, x, f"{name}.{norm}")
        return x

    def enlarging(length: int) -> Tensor:
        place = torch.arange(2 * length, dtype=torch.float64) * (length - 1) / (2 * length - 1)
        return (1 - (place[:, None] - torch.arange(length)).abs()).clamp(min=0)

    def pooled(x: Tensor) -> Tensor:
        height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
        return x[:, :, :height, :width].unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax(dim=(3, 5))

    skips = [convolutions(image, "down.0")]
    for level in range(1, levels):
        skips.append(convolutions(pooled(skips[-1]), f"down.{level}"))
    x = skips.pop()
    for up in range(levels - 1):
        skip = skips.pop()
        x = enlarging(x.shape[2]) @ x @ enlarging(x.shape[3]).T
        grown = torch.zeros(*x.shape[:2], *skip.shape[2:], dtype=x.dtype)
        top, left = (skip.shape[2] - x.shape[2]) // 2, (skip.shape[3] - x.shape[3]) // 2
        grown[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
        x = convolutions(torch.cat([skip, grown], dim=1), f"up.{up}")
    return F.conv2d(x, state["last.weight"], state["last.bias"])


@pytest.mark.parametrize(
    ("size", "widths"), [((16, 16), (4, 6, 8)), ((13, 11), (3, 5, 4, 4)), ((40, 40), (12, 24, 48))]
)
def test_output_equals_an_independent_computation(size: tuple[int, int], widths: Sequence[int]) -> None:
    torch.manual_seed(0)
    network, image = warmed(UNet(2, 3, widths), 2, 2, *size)
    with torch.no_grad():
        torch.testing.assert_close(network(image), functional(network.state_dict(), image, len(widths)))


@settings(max_examples=15, deadline=None)
@given(st.integers(4, 23), st.integers(4, 23))
def test_logits_have_the_images_size_and_every_parameter_a_gradient(height: int, width: int) -> None:
    network = UNet(1, 3, [2, 3, 4])
    logits = network(torch.randn(2, 1, height, width))
    assert logits.shape == (2, 3, height, width)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_features_can_be_watched_through_the_normalisation() -> None:
    with torch.device("meta"):
        network = Normalized(UNet(3, 2, [4, 8]), [0.5] * 3, [0.25] * 3)
        assert network.forward_features(torch.rand(2, 3, 8, 8)).shape == (2, 4, 8, 8)
