"""A perceptron that estimates scores or noise, for images of a few hundred pixels at most and for a CPU.

    out(v / sqrt(1 + sigma^2), 250 log sigma) / sigma    for levels sigma,       out(v, t)    for times t,

with v the image, 2 x - 1 where it is in [0, 1], and `out` a linear map of the features of `time_conditioned_mlp.py`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.networks.time_conditioned_mlp import TimeConditionedMLP


class ScoreMLP(nn.Module):
    """Maps noisy images `[B, C, H, W]` and noise levels or times `[B]` to scores or noise of their shape.

    Args:
        image_shape: C, H and W.
        width: of the hidden layers; even.
        depth: number of residual blocks.
        told_sigma: levels are sigma, images are in [0, 1] before noise is added, and the output is divided by sigma;
            otherwise images are in [-1, 1] and the network is told times that count to 1,000.
    """

    def __init__(self, image_shape: Sequence[int], width: int = 256, depth: int = 3, told_sigma: bool = True) -> None:
        super().__init__()
        values = math.prod(image_shape)
        self.features = TimeConditionedMLP(values, width, depth)
        self.out = nn.Linear(width, values)
        self.told_sigma = told_sigma

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        if not self.told_sigma:
            return self.out(self.features(noisy, level)).view_as(noisy)
        level = level.to(torch.promote_types(level.dtype, torch.float32))
        sigma = level.view(-1, 1, 1, 1)
        scaled = (2 * noisy - 1) / (1 + sigma**2).sqrt()
        return self.out(self.features(scaled.to(noisy.dtype), 250 * level.log())).view_as(noisy) / sigma
