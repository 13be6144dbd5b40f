"""NCSN++ and DDPM++: U-Nets of score models, in which residual blocks also change the resolution.

Each level has residual blocks, self-attention at some resolutions, and a residual block that down- or upsamples. Every
sum of two branches is divided by sqrt(2). NCSN++ resamples with the filter [1, 3, 3, 1], adds a pyramid of the noisy
image in the encoder, and embeds log sigma by random Fourier features. NCSN++ divides its output by sigma, so that the
output estimates the score under noise sigma. DDPM++ has none of these parts. It embeds a time in 0..999 by sines and
cosines, and predicts the noise.

The blocks are those of diffusers. Initial weights are uniform with variance s / mean(fan_in, fan_out), and biases are
zero. The scale s is 0.1 for queries, keys and values, 1e-10 for the last layer of each branch and of the network, and 1
for all other layers.

Source: Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, ICLR 2021, arXiv
2011.13456, appendix H; numbers of parameters as in the authors' code.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import FirDownsample2D
from diffusers.models.embeddings import GaussianFourierProjection, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import FirUpsample2D
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, within
from datamodules.pixel_ranges import to_signed

EPSILON = 1e-6
FREQUENCY_SCALE = 16.0
"""Standard deviation of the random frequencies that embed log sigma."""
ZERO = 1e-10
"""Variance scale of weights whose initial values are close to zero."""


def groups(channels: int) -> int:
    """Return the number of groups in the group normalisation of a given number of channels."""
    return min(channels // 4, 32)


def initialize_layer(layer: Any, scale: float = 1.0) -> Any:
    """Initialise a layer: weights are random with the variance scale `scale`, and the bias is zero."""
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def residual_block(
    inside: int,
    outside: int,
    embedding: int | None,
    dropout: float = 0.0,
    fir: bool = True,
    resize: Literal["up", "down"] | None = None,
) -> ResnetBlock2D:
    """Build BigGAN's residual block. If channels or resolution change, its shortcut is a 1x1 convolution."""
    block = ResnetBlock2D(
        in_channels=inside,
        out_channels=outside,
        temb_channels=embedding,  # type: ignore[arg-type]
        groups=groups(inside),
        groups_out=groups(outside),
        eps=EPSILON,
        dropout=dropout,
        output_scale_factor=math.sqrt(2),
        kernel="fir" if fir else "sde_vp",  # type: ignore[arg-type]
        use_in_shortcut=inside != outside or resize is not None,
        up=resize == "up",
        down=resize == "down",
    )
    for layer in (block.conv1, block.time_emb_proj, block.conv_shortcut):
        if layer is not None:
            initialize_layer(layer)
    initialize_layer(block.conv2, ZERO)
    return block


def attention_block(channels: int) -> Attention:
    """Build single-head self-attention over the pixels of an image."""
    attention = Attention(
        query_dim=channels,
        heads=1,
        dim_head=channels,
        bias=True,
        norm_num_groups=groups(channels),
        eps=EPSILON,
        residual_connection=True,
        rescale_output_factor=math.sqrt(2),
    )
    for layer in (attention.to_q, attention.to_k, attention.to_v):
        initialize_layer(layer, 0.1)
    initialize_layer(attention.to_out[0], ZERO)
    return attention


def _last(inside: int, outside: int) -> nn.Sequential:
    last = initialize_layer(nn.Conv2d(inside, outside, 3, padding=1), ZERO)
    return nn.Sequential(nn.GroupNorm(groups(inside), inside, eps=EPSILON), nn.SiLU(), last)


class _Level(nn.Module):
    """Residual blocks at one resolution, with or without attention, and the layers that lead to the next resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        self.attentions = nn.ModuleList()
        self.resize: nn.Module | None = None
        self.pyramid: nn.Module | None = None


class NCSNpp(nn.Module):
    """Map noisy images `[B, C, H, W]`, given noise levels or times `[B]`, to scores or noise of the images' shape.

    The defaults give the NCSN++ for CIFAR-10 with continuous sigma; DDPM++ needs `fir: false, pyramid: none, embedding:
    positional, centre_input: false, divide_by_level: false`. The deep versions of both have `num_blocks: 8`.

    Args:
        image_size: height H of the images; `attention_sizes` refer to it. The width may differ from the height, as for
            spectrograms.
        channels: channels of an image, C.
        width: channels at full resolution, a multiple of 4.
        multipliers: channel multiplier of each resolution, from H downwards.
        num_blocks: number of residual blocks at each resolution.
        attention_sizes: heights of feature maps with self-attention; the middle of the network always has
            self-attention.
        dropout: dropout probability inside residual blocks.
        fir: whether to resample with the filter [1, 3, 3, 1]; if false, downsampling averages pixels and upsampling
            copies them.
        pyramid: `residual` adds a downsampling convolution of the image to the features; at the next level, the sum
            replaces the image. `skip` adds a 1x1 convolution of the downsampled image, and sums the outputs of all
            resolutions.
        embedding: `fourier` for noise levels sigma, `positional` for times in 0..999.
        centre_input: whether to rescale the input from [0, 1] to [-1, 1]; set this if images are in [0, 1] before noise
            is added.
        divide_by_level: whether to divide the network's output by sigma.
    """

    _keep_in_fp32_modules = ("embedding",)

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        num_blocks: int = 4,
        attention_sizes: Sequence[int] = (16,),
        dropout: float = 0.1,
        fir: bool = True,
        pyramid: Literal["none", "residual", "skip"] = "residual",
        embedding: Literal["fourier", "positional"] = "fourier",
        centre_input: bool = True,
        divide_by_level: bool = True,
    ) -> None:
        super().__init__()
        at_least(1, channels=channels, num_blocks=num_blocks)
        within(0, 1, "[)", dropout=dropout)
        one_of(("none", "residual", "skip"), pyramid=pyramid)
        one_of(("fourier", "positional"), embedding=embedding)
        if width < 4 or width % 4:
            raise ValueError(f"width must be a multiple of 4, got {width}")
        if not multipliers or image_size % 2 ** (len(multipliers) - 1):
            raise ValueError(f"image_size {image_size} cannot be halved for each of multipliers {list(multipliers)}")
        if divide_by_level and embedding == "positional":
            raise ValueError(
                "divide_by_level divides by sigma, but a network with embedding positional receives times instead"
            )
        self.image_size = image_size
        self.smallest = 2 ** (len(multipliers) - 1)
        self.centre_input = centre_input
        self.divide_by_level = divide_by_level
        self.residual_pyramid = pyramid == "residual"
        features = 2 * width if embedding == "fourier" else width
        self.embedding: nn.Module = (
            GaussianFourierProjection(width, FREQUENCY_SCALE, set_W_to_weight=False)
            if embedding == "fourier"
            else Timesteps(width, flip_sin_to_cos=False, downscale_freq_shift=1)
        )
        self.told = nn.Sequential(
            initialize_layer(nn.Linear(features, 4 * width)),
            nn.SiLU(),
            initialize_layer(nn.Linear(4 * width, 4 * width)),
        )

        def block(inside: int, outside: int, resize: Literal["up", "down"] | None = None) -> ResnetBlock2D:
            return residual_block(inside, outside, 4 * width, dropout, fir, resize)

        sizes = [image_size // 2**level for level in range(len(multipliers))]
        self.first = initialize_layer(nn.Conv2d(channels, width, 3, padding=1))
        here, kept, shrunk = width, [width], channels
        self.down = nn.ModuleList()
        for size, multiplier in zip(sizes, multipliers, strict=True):
            level = _Level()
            for _ in range(num_blocks):
                level.blocks.append(block(here, width * multiplier))
                here = width * multiplier
                level.attentions.append(attention_block(here) if size in attention_sizes else nn.Identity())
                kept.append(here)
            if size != sizes[-1]:
                level.resize = block(here, here, "down")
                if pyramid == "residual":
                    level.pyramid = FirDownsample2D(shrunk, here, use_conv=True)
                    initialize_layer(level.pyramid.Conv2d_0)
                    shrunk = here
                elif pyramid == "skip":
                    level.pyramid = initialize_layer(nn.Conv2d(channels, here, 1))
                kept.append(here)
            self.down.append(level)
        self.middle = nn.ModuleList([block(here, here), attention_block(here), block(here, here)])
        self.up = nn.ModuleList()
        for size, multiplier in zip(sizes[::-1], multipliers[::-1], strict=True):
            level = _Level()
            for _ in range(num_blocks + 1):
                level.blocks.append(block(here + kept.pop(), width * multiplier))
                here = width * multiplier
            level.attentions.append(attention_block(here) if size in attention_sizes else nn.Identity())
            if pyramid == "skip":
                level.pyramid = _last(here, channels)
            if size != sizes[0]:
                level.resize = block(here, here, "up")
            self.up.append(level)
        self.last = None if pyramid == "skip" else _last(here, channels)
        self.shrink = FirDownsample2D() if fir else nn.AvgPool2d(2)
        self.grow = FirUpsample2D() if fir else nn.Upsample(scale_factor=2)

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        if noisy.shape[-2] != self.image_size or noisy.shape[-1] % self.smallest:
            raise ValueError(
                f"images must have {self.image_size} rows and a multiple of {self.smallest} columns, got "
                f"{list(noisy.shape)}"
            )
        level = level.float() if level.dtype != torch.float64 else level
        told = self.told(self.embedding(level).to(self.first.weight.dtype))
        x = to_signed(noisy) if self.centre_input else noisy
        x = self._through(x, told)
        if self.divide_by_level:  # in single precision, since sigma spans four orders of magnitude
            x = x.to(level.dtype) / level.view(-1, 1, 1, 1)
        return x

    def _through(self, image: Tensor, told: Tensor) -> Tensor:
        x = self.first(image)
        kept = [x]
        level: Any
        for level in self.down:
            for block, attention in zip(level.blocks, level.attentions, strict=True):
                x = attention(block(x, told))
                kept.append(x)
            if level.resize is not None:
                x = level.resize(x, told)
                if level.pyramid is not None and self.residual_pyramid:
                    image = x = (level.pyramid(image) + x) / math.sqrt(2)
                elif level.pyramid is not None:
                    image = self.shrink(image)
                    x = level.pyramid(image) + x
                kept.append(x)
        first, attention, second = self.middle
        x = second(attention(first(x, told)), told)
        output: Tensor | None = None
        for level in self.up:
            for block in level.blocks:
                x = block(torch.cat([x, kept.pop()], dim=1), told)
            x = level.attentions[0](x)
            if level.pyramid is not None:
                added = level.pyramid(x)
                output = added if output is None else self.grow(output) + added
            if level.resize is not None:
                x = level.resize(x, told)
        return self.last(x) if self.last is not None else output  # type: ignore[return-value]
