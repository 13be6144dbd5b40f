import pytest
import torch
from torch.nn import functional as F

from lightning_modules.restoration.sgmse.deep_complex_unet import KERNEL, PADDING, ComplexConvolution, DeepComplexUNet


def complex_of(channels: torch.Tensor) -> torch.Tensor:
    return torch.complex(*channels.chunk(2, dim=1))


@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_are_those_of_complex_numbers(transposed: bool) -> None:
    """Compare with the convolutions of PyTorch for complex tensors."""
    torch.manual_seed(0)
    layer = ComplexConvolution(3, 2, (2, 1), (2, 1), transposed).double()
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    weight = torch.complex(layer.real.weight, layer.imaginary.weight)
    if transposed:
        found, beyond = layer(x, (20, 7)), (20 - (8 * 2 - 2 * PADDING + 2 * (KERNEL - 1) + 1), 0)
        expected = F.conv_transpose2d(complex_of(x), weight, None, (2, 1), PADDING, beyond, 1, (2, 1))
        assert found.shape[2:] == (20, 7)
    else:
        found, expected = layer(x), F.conv2d(complex_of(x), weight, None, (2, 1), PADDING, (2, 1))
    torch.testing.assert_close(complex_of(found), expected)


def test_the_first_papers_network_takes_spectrograms_of_any_length() -> None:
    with torch.device("meta"):
        network = DeepComplexUNet()
        for frames in (64, 77):
            assert network(torch.randn(2, 4, 256, frames), torch.rand(2)).shape == (2, 2, 256, frames)
    kernels = [2 * 32, 32 * 32, 32 * 32, 32 * 64, 64 * 128, 128 * 256]  # encoders, then decoders with skip connections
    kernels += [256 * 128, 256 * 64, 128 * 32, 64 * 32, 64 * 32, 64 * 1]
    layers = [32, 32, 32, 64, 128, 256, 128, 64, 32, 32, 32]
    times = 2 * 2 * (128 * 128 + 128) + sum(2 * (128 + 1) * after for after in layers)
    expected = 2 * KERNEL**2 * sum(kernels) + times + sum(2 * 2 * after for after in layers)
    assert sum(each.numel() for each in network.parameters()) == expected


def test_output_depends_on_state_noisy_spectrogram_and_time_and_gradients_reach_all_weights() -> None:
    torch.manual_seed(0)
    network = DeepComplexUNet((2, 3, 4), ((1, 1), (2, 1), (2, 2)), (1, 2, 1), embedding=4).double()
    x, t = torch.randn(3, 4, 16, 8, dtype=torch.float64, requires_grad=True), torch.rand(3, dtype=torch.float64)
    made = network(x, t)
    made.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in network.parameters())
    assert x.grad is not None
    assert (x.grad.abs().amax(dim=(0, 2, 3)) > 0).all()
    assert (network(x, t / 2) - made).abs().max() > 1e-3
    with pytest.raises(ValueError, match="same length, got 2, 6 and 6"):
        DeepComplexUNet((2, 3))
