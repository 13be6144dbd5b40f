"""The convolutional network in the tangent kernel's scaling, compared with torch's convolutions."""

import pytest
import torch
import torch.nn.functional as F

from lightning_modules.networks.ntk_mnas import InvertedResidual, NTKConv, NTKMnas


@pytest.mark.parametrize(("size", "sides"), [(28, (1, 2)), (32, (1, 2)), (7, (2, 2))])
def test_a_convolution_is_scaled_and_padded_as_in_tensorflow(size: int, sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = NTKConv(3, 4, kernel_size=5, stride=2).double()
    image = torch.randn(2, 3, size, size, dtype=torch.float64)
    expected = F.conv2d(F.pad(image, (*sides, *sides)), layer.weight, stride=2) / (5 * 3**0.5)
    assert expected.shape[-1] == (size + 1) // 2
    torch.testing.assert_close(layer(image), expected)


def test_a_depthwise_convolution_is_divided_by_its_kernels_size() -> None:
    layer = NTKConv(3, None, kernel_size=5).double()
    image = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(image), F.conv2d(image, layer.weight, padding=2, groups=3) / 5)


def test_a_block_adds_its_input_where_the_shapes_are_one() -> None:
    image = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    for channels, stride, added in ((4, 1, True), (8, 1, False), (4, 2, False)):
        block = InvertedResidual(4, channels, stride, "relu").double()
        alone = block.layers(image)
        torch.testing.assert_close(block(image), (alone + image) / 2**0.5 if added else alone)


def test_the_size_and_the_output_are_those_of_its_width() -> None:
    network = NTKMnas(64)
    assert sum(parameter.numel() for parameter in network.parameters()) == 707_649  # counted in the authors' network
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 1)
    small = NTKMnas(2, in_channels=1).double()
    image = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    features = small.layers(image).mean(dim=(2, 3))
    torch.testing.assert_close(small(image), (features @ small.weight.T + small.bias) / 40)
