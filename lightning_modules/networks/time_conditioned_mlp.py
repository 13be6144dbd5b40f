"""A residual MLP conditioned on the time (or the noise level), for images of a few dozen pixels.

    h_0 = W x,   h_{i+1} = h_i + V_i SiLU(U_i LayerNorm(h_i) + T_i SiLU(W_t c(t))),   feature = LayerNorm(h_L)

The time embedding c is defined in `time_embedding.py`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.networks.time_embedding import sinusoidal_embedding


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.time = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        return hidden + self.outer(F.silu(self.inner(self.norm(hidden)) + self.time(time)))


class TimeConditionedMLP(nn.Module):
    """Map each image and its time to a feature vector.

    Args:
        in_features: number of values of an image, C H W.
        width: width of the hidden layers and length of the feature vector; must be even.
        depth: L, number of residual blocks.
    """

    def __init__(self, in_features: int, width: int = 96, depth: int = 3) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width must be even, got {width}")
        self.embed = nn.Linear(in_features, width)
        self.time = nn.Linear(width, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.in_features = in_features
        self.width = width

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        """Compute features `[B, width]` of images `[B, C, H, W]` at times `[B]`."""
        values = math.prod(image.shape[1:])
        if values != self.in_features:
            raise ValueError(f"in_features is {self.in_features}, but images {list(image.shape[1:])} have {values}")
        embedded = F.silu(self.time(sinusoidal_embedding(time, self.width).to(image.dtype)))
        hidden = self.embed(image.flatten(start_dim=1))
        for block in self.blocks:
            hidden = block(hidden, embedded)
        return self.norm(hidden)


class TimeConditionedImageMLP(TimeConditionedMLP):
    """A diffusion network for very small images: maps images and times to outputs of the images' shape.

    Args:
        in_features: number of values of an image, C H W.
        width: width of the hidden layers; even.
        depth: L, number of residual blocks.
    """

    def __init__(self, in_features: int, width: int = 256, depth: int = 3) -> None:
        super().__init__(in_features, width, depth)
        self.head = nn.Linear(width, in_features)

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        """Map images `[B, C, H, W]` and times `[B]` to outputs of the same shape as the images."""
        return self.head(super().forward(image, time)).view_as(image)


class PromptedImageMLP(TimeConditionedMLP):
    """A text-to-image network for very small images. It maps images, times and texts to outputs of the images' shape.

    Args:
        in_features: number of values of an image, C H W.
        prompt_features: D, size of a token embedding; the mean embedding of a text is concatenated with the image.
        width: width of the hidden layers; even.
        depth: L, number of residual blocks.
    """

    def __init__(self, in_features: int, prompt_features: int, width: int = 256, depth: int = 3) -> None:
        super().__init__(in_features + prompt_features, width, depth)
        self.head = nn.Linear(width, in_features)

    def forward(self, image: Tensor, time: Tensor, prompts: Prompts) -> Tensor:  # type: ignore[override]
        """Map images `[B, C, H, W]`, times `[B]` and B texts to outputs of the same shape as the images."""
        text = prompts.embedding.mean(dim=1).to(image.dtype)
        return self.head(super().forward(torch.cat([image.flatten(1), text], dim=1), time)).view_as(image)
