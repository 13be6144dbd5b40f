"""A small vision transformer for images of 32 x 32 pixels, trained from scratch.

    z = [cls, E patches] + positions,   z <- z + A(LN(z)),   z <- z + g(W_2 g(W_1 LN(z))),   logits = W LN(z_cls).

The attention A is softmax(q k^T / sqrt(D)) v; it is scaled with the width D instead of the dimension of a head. A GELU
g follows each of the two layers of the MLP. The linear layer E embeds the patches, whose values are flattened in the
order row, column, channel.

Source: the network of ViT-CIFAR (S. Omi, github.com/omihub777/ViT-CIFAR), used in TrAct's paper; after Dosovitskiy
et al., An Image is Worth 16x16 Words, ICLR 2021, arXiv 2010.11929.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention whose scores are divided by the square root of the width.

    Args:
        width: D, number of features of a token.
        num_heads: number of attention heads, a divisor of `width`.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, token: Tensor) -> Tensor:
        query, key, value = (
            layer(token).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, scale=token.shape[2] ** -0.5)
        return self.output(mixed.transpose(1, 2).flatten(start_dim=2))


class ViTBlock(nn.Module):
    """Pre-norm attention and a two-layer MLP, each with a residual connection.

    Args:
        width: D, number of features of a token and of the MLP's hidden layer.
        num_heads: number of attention heads.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.perceptron = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU())

    def forward(self, token: Tensor) -> Tensor:
        token = token + self.attention(self.norm1(token))
        return token + self.perceptron(self.norm2(token))


class CIFARViT(nn.Module):
    """Map normalised images `[B, C, H, W]` to logits `[B, num_classes]`.

    Args:
        num_classes: number of logits, K.
        image_size: height and width, in pixels.
        patch_size: height and width of a patch, in pixels.
        width: D, number of features of a token.
        depth: number of blocks.
        num_heads: number of attention heads, a divisor of `width`.
        in_channels: channels of an image, C.
    """

    def __init__(
        self,
        num_classes: int = 10,
        image_size: int = 32,
        patch_size: int = 4,
        width: int = 384,
        depth: int = 7,
        num_heads: int = 12,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide image_size {image_size}")
        if width % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide width {width}")
        self.patch_size = patch_size
        self.embedding = nn.Linear(in_channels * patch_size**2, width)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, (image_size // patch_size) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(ViTBlock(width, num_heads) for _ in range(depth)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def forward(self, image: Tensor) -> Tensor:
        size = self.patch_size
        patches = image.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 4, 5, 1)
        embedded = self.embedding(patches.flatten(start_dim=3).flatten(start_dim=1, end_dim=2))
        token = torch.cat([self.class_token.expand(image.shape[0], -1, -1), embedded], dim=1) + self.position
        return self.head(self.blocks(token)[:, 0])
