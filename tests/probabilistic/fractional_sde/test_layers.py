"""The diffusion network of each dimension gives the same values as a separate network."""

import torch
from torch import nn

from lightning_modules.probabilistic.fractional_sde.layers import DiagonalDiffusion, tanh_layers


def test_a_diffusion_is_a_network_for_each_dimension_with_its_slope() -> None:
    diffusion = DiagonalDiffusion(3, [5, 4]).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    values, slopes = torch.func.jvp(diffusion, (x,), (torch.ones_like(x),))
    for d in range(3):
        alone = nn.Sequential(tanh_layers(1, [5, 4], 1), nn.Softplus()).double()
        parts = [part for pair in zip(diffusion.weights, diffusion.biases, strict=True) for part in pair]
        for parameter, part in zip(alone.parameters(), parts, strict=True):
            parameter.data = part[d].T.reshape(parameter.shape)
        own = x[:, d : d + 1].clone().requires_grad_()
        expected = alone(own)
        torch.testing.assert_close(values[:, d], expected[:, 0])
        torch.testing.assert_close(slopes[:, d], torch.autograd.grad(expected.sum(), own)[0][:, 0])
    assert (values > 0).all()


def test_the_widths_of_the_papers_videos() -> None:
    count = sum(parameter.numel() for parameter in DiagonalDiffusion(6, [200, 200]).parameters())
    assert count == 6 * (200 + 200 + 200 * 200 + 200 + 200 + 1)
