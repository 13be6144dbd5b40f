"""An MLP that estimates scores or noise. It is suitable for images of at most a few hundred pixels, and for CPUs.

    out(v / sqrt(1 + sigma^2), 250 log sigma) / sigma    for levels sigma,       out(v, t)    for times t.

Here v is the noisy image. If images are in [0, 1], v is first mapped to 2 v - 1. `out` is a linear map of the features
of `time_conditioned_mlp.py`. With `skip`, the input is multiplied by a learned function of the level and added to the
output. Images with more than `width` values need this skip connection, because their noise cannot pass through the
hidden layers.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datamodules.pixel_ranges import to_signed
from lightning_modules.networks.time_conditioned_mlp import TimeConditionedMLP
from lightning_modules.networks.time_embedding import sinusoidal_embedding


class ScoreMLP(nn.Module):
    """Map noisy images `[B, C, H, W]`, given noise levels or times `[B]`, to scores or noise of the images' shape.

    Args:
        image_shape: channels, height and width of an image.
        width: width of the hidden layers; even.
        depth: number of residual blocks.
        told_sigma: if true, the second input is a noise level sigma, images are in [0, 1] before noise is added, and
            the output is divided by sigma. If false, the second input is a time up to 1,000, and images are in [-1, 1].
        skip: whether to add a multiple of the input to the output.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        width: int = 256,
        depth: int = 3,
        told_sigma: bool = True,
        skip: bool = False,
    ) -> None:
        super().__init__()
        values = math.prod(image_shape)
        self.features = TimeConditionedMLP(values, width, depth)
        self.out = nn.Linear(width, values)
        self.told_sigma = told_sigma
        self.gate: nn.Module | None = None
        if skip:
            self.gate = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        if not self.told_sigma:
            return self._output(noisy, level)
        level = level.to(torch.promote_types(level.dtype, torch.float32))
        sigma = level.view(-1, 1, 1, 1)
        scaled = to_signed(noisy) / (1 + sigma**2).sqrt()
        return self._output(scaled.to(noisy.dtype), 250 * level.log()) / sigma

    def _output(self, image: Tensor, time: Tensor) -> Tensor:
        output = self.out(self.features(image, time)).view_as(image)
        if self.gate is None:
            return output
        embedding = sinusoidal_embedding(time, self.features.width).to(image.dtype)
        return output + self.gate(embedding).view(-1, 1, 1, 1) * image
