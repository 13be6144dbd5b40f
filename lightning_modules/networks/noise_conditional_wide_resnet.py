"""A wide residual network conditioned on the noise level, with group normalisation instead of batch normalisation.

    y = s + conv(GN-ReLU(conv(GN-ReLU(x)) + W swish(e))).

Here e is an embedding of log sigma, computed by random Fourier features and two linear layers. The shortcut s is x
after average pooling and padding with zero channels. The network standardises each image.

Source: Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, ICLR 2021, arXiv
2011.13456, appendix I, with the layers of the authors' JAX code; Zagoruyko and Komodakis, Wide Residual Networks, BMVC
2016, arXiv 1605.07146.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import GaussianFourierProjection
from torch import Tensor, nn

from datamodules.arguments import at_least

EMBEDDING = 128


def _normalization(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels)


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, activated_shortcut: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = _normalization(inside), _normalization(outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.told = nn.Linear(4 * EMBEDDING, outside)
        self.stride = stride
        self.activated_shortcut = activated_shortcut

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        activation = F.relu(self.norm1(x))
        shortcut = activation if self.activated_shortcut else x
        x = self.conv1(activation) + self.told(F.silu(embedding))[:, :, None, None]
        x = self.conv2(F.relu(self.norm2(x)))
        if self.stride > 1:
            shortcut = F.avg_pool2d(shortcut, self.stride)
        return x + F.pad(shortcut, (0, 0, 0, 0, 0, x.shape[1] - shortcut.shape[1]))


class NoiseConditionalWideResNet(nn.Module):
    """Map noisy images `[B, C, H, W]`, and the standard deviation of each image's noise, `[B]`, to logits `[B, K]`.

    Args:
        depth: number of layers, 6n + 4.
        width: widening factor k. The stages have 16k, 32k and 64k channels.
        num_classes: number of logits, K.
        in_channels: channels of an image, C.
    """

    _keep_in_fp32_modules = ("embedding",)

    def __init__(self, depth: int = 28, width: int = 10, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6n + 4 (10, 16, 22, 28, ...), got {depth}")
        at_least(1, width=width, num_classes=num_classes, in_channels=in_channels)
        self.embedding = GaussianFourierProjection(EMBEDDING, 16.0, set_W_to_weight=False)
        self.told = nn.Sequential(
            nn.Linear(2 * EMBEDDING, 4 * EMBEDDING), nn.SiLU(), nn.Linear(4 * EMBEDDING, 4 * EMBEDDING)
        )
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        for stage, (inside, outside) in enumerate(itertools.pairwise([16, 16 * width, 32 * width, 64 * width])):
            for number in range(blocks):
                stride = 2 if stage and not number else 1
                start = inside if number == 0 else outside
                self.blocks.append(_Block(start, outside, stride, activated_shortcut=stage == number == 0))
        self.norm = _normalization(64 * width)
        self.linear = nn.Linear(64 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        bound = 1 / math.sqrt(num_classes)
        nn.init.uniform_(self.linear.weight, -bound, bound)
        nn.init.zeros_(self.linear.bias)

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        values = noisy.flatten(1)
        least = 1 / math.sqrt(values.shape[1])
        mean = values.mean(dim=1).view(-1, 1, 1, 1)
        deviation = values.std(dim=1, correction=0).clamp(min=least).view(-1, 1, 1, 1)
        embedding = self.embedding(sigma.to(torch.promote_types(sigma.dtype, torch.float32)))
        embedding = self.told(embedding.to(self.conv.weight.dtype))
        x = self.conv((noisy - mean) / deviation)
        for block in self.blocks:
            x = block(x, embedding)
        return self.linear(F.relu(self.norm(x)).mean(dim=(2, 3)))
