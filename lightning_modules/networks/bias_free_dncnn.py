"""A DnCNN without additive constants: if the image is multiplied by a factor, the estimate is multiplied by it, too.

    f(y) = y - R(y),        R: conv, ReLU, (D - 2) x (conv, x / s * gamma, ReLU), conv

The 3 x 3 kernels have no bias. Each channel is multiplied by a learned factor gamma and divided by a scale s. In
training, s is the channel's standard deviation over the batch; in evaluation, it is the running average of this
deviation. A single network handles all noise levels, even those that did not occur in training.

Source: Mohan, Kadkhodaie, Simoncelli and Fernandez-Granda, Robust and Interpretable Blind Image Denoising via Bias-Free
Convolutional Neural Networks, ICLR 2020, arXiv 1906.05478. Parameter names follow the authors' code. The running
average of s has momentum 0.1. Each rank keeps a separate average, as with batch normalisation under DDP.
"""

import itertools

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least


class _Deviations(nn.Module):
    """Running standard deviations of the inner layers, stored as buffers with the names `0`, `1`, ..."""

    def __init__(self, number: int, features: int) -> None:
        super().__init__()
        for layer in range(number):
            self.register_buffer(str(layer), torch.ones(1, features, 1, 1))


class BiasFreeDnCNN(nn.Module):
    """Estimate clean images `[B, C, H, W]` from noisy images, at any level of Gaussian noise.

    Args:
        channels: channels of an image.
        depth: number of convolutions, D, at least 2.
        features: channels of the inner layers.
    """

    def __init__(self, channels: int = 3, depth: int = 20, features: int = 64) -> None:
        super().__init__()
        at_least(1, channels=channels, features=features)
        at_least(2, depth=depth)
        widths = [channels, *[features] * (depth - 1), channels]
        self.conv_layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in itertools.pairwise(widths)
        )
        self.gammas = nn.ParameterList(
            nn.init.normal_(torch.empty(1, features, 1, 1), std=2 / 9 / 64).clamp_(-0.025, 0.025)
            for _ in range(depth - 2)
        )
        self.running_sd = _Deviations(depth - 2, features)

    def forward(self, noisy: Tensor) -> Tensor:
        x = self.conv_layers[0](noisy).relu()
        for layer, gamma in enumerate(self.gammas):
            x = self.conv_layers[layer + 1](x)
            running = getattr(self.running_sd, str(layer))
            if self.training:
                deviation = (x.var(dim=(0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
                running.mul_(0.9).add_(deviation.detach(), alpha=0.1)
            else:
                deviation = running
            x = (x / deviation * gamma).relu()
        return noisy - self.conv_layers[-1](x)
