"""The authors' networks for videos: for frames, for time-invariant content, and for the distribution of X(0)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

GROUPS = 8
"""Number of groups of each group normalisation."""


class FrameEncoder(nn.Module):
    """A stack of Conv-MaxPool-GroupNorm-SiLU blocks and a linear layer.

    Each block halves the resolution.

    Args:
        in_channels: number of channels of a frame.
        channels: number of output channels of each block; all are multiples of 8.
        image_size: height and width of a frame in pixels, a multiple of 2^(number of blocks).
        num_features: number of output features of a frame.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (64, 128, 256, 256),
        image_size: int = 64,
        num_features: int = 64,
    ) -> None:
        super().__init__()
        side = _least_side(image_size, channels)
        self.num_features = num_features
        blocks: list[nn.Module] = []
        for narrow, wide in pairwise([in_channels, *channels]):
            blocks += [nn.Conv2d(narrow, wide, 3, padding=1), nn.MaxPool2d(2), nn.GroupNorm(GROUPS, wide), nn.SiLU()]
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Linear(channels[-1] * side**2, num_features)

    def forward(self, frame: Tensor) -> Tensor:
        """Map frames `[N, C, H, W]` in [0, 1] to `[N, num_features]`."""
        return self.last(self.blocks(frame).flatten(1))


class FrameDecoder(nn.Module):
    """A linear layer, a stack of Conv-GroupNorm-upsample-SiLU blocks, and two convolutions.

    Each block doubles the resolution.

    Args:
        in_features: number of input features, equal to `num_contents` plus `num_latents`.
        out_channels: number of channels of a frame.
        channels: number of output channels of each block, multiples of 8; the first block has as many input channels as
            output channels.
        image_size: height and width of a frame in pixels, a multiple of 2^(number of blocks).
    """

    def __init__(
        self,
        in_features: int = 70,
        out_channels: int = 1,
        channels: Sequence[int] = (256, 128, 64, 64),
        image_size: int = 64,
    ) -> None:
        super().__init__()
        side = _least_side(image_size, channels)
        self.in_features = in_features
        self.first = nn.Linear(in_features, channels[0] * side**2)
        blocks: list[nn.Module] = [nn.Unflatten(1, (channels[0], side, side))]
        for narrow, wide in pairwise([channels[0], *channels]):
            block = (nn.Conv2d(narrow, wide, 3, padding=1), nn.GroupNorm(GROUPS, wide), nn.Upsample(scale_factor=2))
            blocks += [*block, nn.SiLU()]
        last = channels[-1]
        blocks += [nn.Conv2d(last, last, 3, padding=1), nn.SiLU(), nn.Conv2d(last, out_channels, 3, padding=1)]
        self.blocks = nn.Sequential(*blocks, nn.Sigmoid())

    def forward(self, latent: Tensor) -> Tensor:
        """Map `[N, in_features]` to frames `[N, C, H, W]` in [0, 1]."""
        return self.blocks(self.first(latent))


def _least_side(image_size: int, channels: Sequence[int]) -> int:
    if image_size % 2 ** len(channels):
        raise ValueError(
            f"image_size must be a multiple of {2 ** len(channels)} for {len(channels)} blocks, got {image_size}"
        )
    if any(width % GROUPS for width in channels):
        raise ValueError(f"channels must be multiples of {GROUPS}, got {list(channels)}")
    return image_size // 2 ** len(channels)


class Content(nn.Module):
    """A network that computes the time-invariant content of a sequence.

    The input of the network is the median of each feature over the frames, and the layers are Linear-SiLU-Linear.

    Args:
        num_features: number of input features, and number of hidden units.
        num_contents: number of content features.
    """

    def __init__(self, num_features: int, num_contents: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_features, num_features), nn.SiLU(), nn.Linear(num_features, num_contents)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features `[B, F, num_features]` to content `[B, num_contents]`."""
        ordered, count = features.sort(dim=1).values, features.shape[1]
        return self.layers((ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2)


class Inferred(NamedTuple):
    """The distribution of X(0), and the features that are an input of the control."""

    mean: Tensor
    """Mean of X(0), `[B, D]`."""
    std: Tensor
    """Standard deviation of X(0), `[B, D]`."""
    context: Tensor
    """Features for the control, `[B, F, num_features]`."""


class Inference(nn.Module):
    """A network that infers the distribution of X(0) and the features for the control.

    Two convolutions over time compute the features for the control. Three linear layers map the features of the first
    frames to the distribution of X(0).

    Args:
        num_features: number of features of each frame.
        num_latents: number of dimensions D of X.
    """

    def __init__(self, num_features: int, num_latents: int) -> None:
        super().__init__()
        self.context = nn.Sequential(
            nn.Conv1d(num_features, num_features, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(num_features, num_features, 3, padding=1),
        )
        self.start = nn.Sequential(
            nn.Linear(4 * num_features, num_features),
            nn.SiLU(),
            nn.Linear(num_features, num_features),
            nn.SiLU(),
            nn.Linear(num_features, 2 * num_latents),
        )

    def forward(self, features: Tensor) -> Inferred:
        """Map features `[B, F, num_features]`, F >= 3, to the distribution of X(0) and the features for the control."""
        context = self.context(features.mT).mT
        told = torch.cat([context[:, 0], features[:, 0], features[:, 1], features[:, 2]], dim=1)
        mean, log_variance = self.start(told).chunk(2, dim=1)
        return Inferred(mean, (0.5 * log_variance).exp(), context)
