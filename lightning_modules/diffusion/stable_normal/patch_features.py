"""Features of the patches of an image, from a timm network such as DINOv2."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.backbones.adaptation import frozen
from lightning_modules.backbones.normalized import Normalized


class PatchFeatures(nn.Module):
    """Compute the last feature map of a frozen timm network.

    The feature map of a transformer consists of its patch tokens, without class tokens and register tokens.

    Args:
        network: timm network that normalises its input, such as
            `lightning_modules.backbones.timm_model(name=vit_large_patch14_dinov2, num_classes=0, image_size=672)`.
        image_size: height and width, in pixels, to which images are resized. With 672, DINOv2 computes features of 48 x
            48 patches.
    """

    def __init__(self, network: nn.Module, image_size: int = 672) -> None:
        super().__init__()
        if not isinstance(network, Normalized) or not hasattr(network.network, "forward_features"):
            raise TypeError(f"features.network must be a timm_model with normalize: true, got {type(network).__name__}")
        self.network: Any = frozen(network)
        self.image_size = image_size

    @property
    def channels(self) -> int:
        return self.network.network.num_features

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Compute features, `[B, channels, h', w']`, of images, `[B, 3, H, W]` in [0, 1]."""
        size = (self.image_size, self.image_size)
        resized = F.interpolate(image, size, mode="bicubic", align_corners=True, antialias=True)
        inner = self.network.network
        features = inner.forward_features(self.network.normalize(resized))
        if features.ndim == 4:
            return features
        tokens = features[:, inner.num_prefix_tokens :]
        side = round(tokens.shape[1] ** 0.5)
        return tokens.transpose(1, 2).unflatten(2, (side, side))
