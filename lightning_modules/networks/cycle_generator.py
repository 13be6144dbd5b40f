"""Generators for image translation: a residual network and a U-Net, with instance normalisation.

Both generators return unbounded values; each method applies a sigmoid or tanh itself. The last layer is a separate
module, so that a method can scale the features that enter this layer.

Source: Zhu et al., Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017, arXiv
1703.10593, appendix 7.2 (the residual network, after Johnson et al., 2016); Isola et al., CVPR 2017, arXiv 1611.07004
(the U-Net, here without its dropout).
"""

from typing import Literal

import torch
from torch import Tensor, nn


def small_normal_weights(module: nn.Module) -> None:
    """Initialise a layer as in CycleGAN: weights of convolutions are sampled from N(0, 0.02^2), and biases are 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _convolution(before: int, after: int, kernel: int, stride: int = 1, reflect: bool = False) -> list[nn.Module]:
    mode: Literal["reflect", "zeros"] = "reflect" if reflect else "zeros"
    convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, padding_mode=mode)
    return [convolution, nn.InstanceNorm2d(after), nn.ReLU()]


class CycleResidualBlock(nn.Module):
    """A residual block: the output of two 3x3 convolutions, with a ReLU between them, is added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = (_convolution(width, width, 3, reflect=True) for _ in range(2))
        self.layers = nn.Sequential(*first, *second[:-1])

    def forward(self, image: Tensor) -> Tensor:
        return image + self.layers(image)


class ResNetGenerator(nn.Module):
    """Map images `[B, C, H, W]` to `[B, C', H, W]` by two downsamplings, residual blocks and two upsamplings.

    `H` and `W` must be multiples of 4.

    Args:
        in_channels: channels of an image, C.
        out_channels: number of channels of the output, C'.
        width: channels at full resolution, 64 in the paper.
        num_blocks: number of residual blocks, which have a quarter of the resolution. The paper uses 9 blocks for
            images of 256 x 256 pixels and 6 for 128 x 128.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 64, num_blocks: int = 9) -> None:
        super().__init__()
        _require_positive(in_channels=in_channels, out_channels=out_channels, width=width, num_blocks=num_blocks)
        layers = _convolution(in_channels, width, 7, reflect=True)
        for before in (width, 2 * width):
            layers += _convolution(before, 2 * before, 3, stride=2)
        layers += [CycleResidualBlock(4 * width) for _ in range(num_blocks)]
        for before in (4 * width, 2 * width):
            enlarging = nn.ConvTranspose2d(before, before // 2, 3, stride=2, padding=1, output_padding=1)
            layers += [enlarging, nn.InstanceNorm2d(before // 2), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.last = nn.Conv2d(width, out_channels, 7, padding=3, padding_mode="reflect")
        self.num_features = width
        self.apply(small_normal_weights)

    def forward_features(self, image: Tensor) -> Tensor:
        """Map images `[B, C, H, W]` to the features before the last layer, `[B, num_features, H, W]`."""
        return self.features(image)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.forward_features(image))


class UNetGenerator(nn.Module):
    """Map images `[B, C, H, W]` to `[B, C', H, W]`: a U-Net of 4x4 convolutions with stride 2, down and up again.

    `H` and `W` must be multiples of 2^num_downsamplings, and at least 2^(num_downsamplings + 1).

    Args:
        in_channels: channels of an image, C.
        out_channels: number of channels of the output, C'.
        width: number of channels after the first downsampling. Each further downsampling doubles it, up to eight times
            `width`.
        num_downsamplings: number of downsampling convolutions; 7 for images of 256 x 256.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 64, num_downsamplings: int = 7) -> None:
        super().__init__()
        _require_positive(
            in_channels=in_channels, out_channels=out_channels, width=width, num_downsamplings=num_downsamplings
        )
        widths = [width * min(2**level, 8) for level in range(num_downsamplings)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, after in enumerate(widths):
            before = widths[level - 1] if level else in_channels
            norm: list[nn.Module] = [nn.InstanceNorm2d(after)] if level else []
            self.down.append(nn.Sequential(nn.Conv2d(before, after, 4, 2, padding=1), *norm, nn.LeakyReLU(0.2)))
        for level in range(num_downsamplings - 1, -1, -1):
            before = widths[level] * (1 if level == num_downsamplings - 1 else 2)
            after = widths[level - 1] if level else width
            enlarging = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
            self.up.append(nn.Sequential(enlarging, nn.InstanceNorm2d(after), nn.ReLU()))
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)
        self.num_features = width
        self.apply(small_normal_weights)

    def forward_features(self, image: Tensor) -> Tensor:
        """Map images `[B, C, H, W]` to the features before the last layer, `[B, num_features, H, W]`."""
        levels = []
        x = image
        for layer in self.down:
            x = layer(x)
            levels.append(x)
        x = self.up[0](levels.pop())
        for layer in self.up[1:]:
            x = layer(torch.cat([x, levels.pop()], dim=1))
        return x

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.forward_features(image))


def _require_positive(**arguments: int) -> None:
    for key, value in arguments.items():
        if value < 1:
            raise ValueError(f"{key} must be at least 1, got {value}")
