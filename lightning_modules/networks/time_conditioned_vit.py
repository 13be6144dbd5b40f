"""A vision transformer that receives the time (or the noise level) as an additional token.

    tokens = [cls, c(t), patches] + positions,   feature = LayerNorm(blocks(tokens)_cls)

The time embedding c is defined in `time_embedding.py`, and is not followed by an MLP. Blocks are pre-norm, and queries,
keys and values have no bias. For B patches of p x p pixels, C channels, width D and depth L, the number of parameters
is

    L (12 D^2 + 10 D) + C p^2 D + D + D + (2 + B) D + 2 D

Source: Lei et al., Robust Representation Consistency Model via Contrastive Denoising, ICLR 2025, arXiv 2501.13094; with
`moco_v3`, the initialisation of Chen, Xie and He, An Empirical Study of Training Self-Supervised Vision Transformers,
ICCV 2021, arXiv 2104.02057.
"""

import math
from functools import partial
from typing import Any, Literal

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lightning_modules.networks.time_embedding import sinusoidal_embedding


class TimeConditionedViT(nn.Module):
    """Map each image and its time to a feature vector.

    Args:
        image_size: height and width, in pixels.
        patch_size: height and width of a patch, in pixels.
        width: D, length of a token; even.
        depth: L, number of blocks.
        num_heads: number of attention heads, a divisor of `width`.
        in_channels: channels of an image, C.
        final_norm: whether to apply a last LayerNorm to the feature.
        initialization: initialisation of linear layers and patch embedding. `default` is that of PyTorch. `moco_v3`
            samples weights uniformly from a range that depends on fan-in and fan-out (Xavier), where queries, keys and
            values count as three separate layers. Its biases are zero.
        train_patches: whether to train the patch embedding; if false, it keeps its initial weights.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        in_channels: int = 3,
        final_norm: bool = True,
        initialization: Literal["default", "moco_v3"] = "default",
        train_patches: bool = True,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size must divide image_size, {image_size}, got {patch_size}")
        if width % 2 or width % num_heads:
            raise ValueError(f"width must be even and a multiple of num_heads, {num_heads}, got {width}")
        norm: Any = partial(nn.LayerNorm, eps=1e-5)
        self.patch_embed = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 2 + (image_size // patch_size) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, num_heads, qkv_bias=False, norm_layer=norm) for _ in range(depth))
        self.norm = norm(width) if final_norm else nn.Identity()
        self.width = width
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if initialization == "moco_v3":
            self._initialize_as_moco_v3()
        self.patch_embed.requires_grad_(train_patches)

    def _initialize_as_moco_v3(self) -> None:
        fans: dict[nn.Linear | nn.Conv2d, int] = {}
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                parts = 3 if name.endswith("qkv") else 1
                fans[module] = module.in_features + module.out_features // parts
        fans[self.patch_embed] = self.patch_embed.weight[0].numel() + self.width
        for module, fan in fans.items():
            nn.init.uniform_(module.weight, -math.sqrt(6 / fan), math.sqrt(6 / fan))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        """Compute features `[B, D]` of images `[B, C, H, W]` at times `[B]`."""
        patches = self.patch_embed(image).flatten(start_dim=2).transpose(1, 2)
        times = sinusoidal_embedding(time, self.width).to(patches.dtype)[:, None]
        tokens = torch.cat([self.cls_token.expand(image.shape[0], -1, -1), times, patches], dim=1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, 0])
