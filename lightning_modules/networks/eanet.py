"""Network of EDiffSR without spatial attention: convolutions, products of two channel halves, and channel gates.

The inputs are the state x_t, the degraded image mu and the time. At each pixel, the network computes

    h = conv([x_t - mu, mu]),    h <- 2 h + gate(conv relu conv h) * (conv relu conv h)

Then h passes through a U-Net of down- and upsampling blocks, which are modulated by the time. The paper applies the
gated convolutions only to mu. This module follows the authors' code instead, which applies them to the fused features
and adds h twice.

Source: Xiao, Yuan, Jiang, He, Jin and Zhang, EDiffSR: An Efficient Diffusion Probabilistic Model for Remote Sensing
Image Super-Resolution, IEEE TGRS 2024, arXiv 2310.19288; Chen, Chu, Zhang and Sun, Simple Baselines for Image
Restoration, ECCV 2022, arXiv 2204.04676.
"""

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from datamodules.arguments import at_least
from lightning_modules.backbones.weights import load, on_meta, read_weights, renamed_key

PUBLISHED = {  # maps published names of layers outside the blocks to names in `EANet`
    "time_mlp.1": "time.0",
    "time_mlp.3": "time.2",
    "intro": "first",
    "enhance.rcab.3.attention": "enhance.gate",
    "enhance.rcab": "enhance.body",
    "ending": "last",
}
PUBLISHED_IN_BLOCKS = {
    "mlp.1": "time.1",
    "norm1.g": "norms.0.gain",
    "conv1": "spread.0",
    "conv2": "spread.1",
    "sca.1": "weight.1",
    "conv3": "mix",
    "norm2.g": "norms.1.gain",
    "conv4": "feed.0",
    "conv5": "feed.2",
    "beta": "scales.0",
    "gamma": "scales.1",
}


class SimpleGate(nn.Module):
    """Multiply the first half of the channels by the second half."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return first * second


class ChannelNorm(nn.Module):
    """Normalise each pixel over its channels to mean 0 and variance 1, then apply a learned gain; in float32 or better.

    Args:
        channels: number of channels C of the feature maps `[B, C, H, W]`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, dim=1, correction=0, keepdim=True)
        return ((wide - mean) * (variance + 1e-5).rsqrt()).to(x.dtype) * self.gain


class GatedConvolutions(nn.Module):
    """Two convolutions, whose output channels are multiplied by gates computed from the channels' averages over pixels.

    Args:
        channels: number of channels C of the feature maps `[B, C, H, W]`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        squeezed = max(channels // 16, 1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        made = self.body(x)
        return x + made * self.gate(made)


class EANetBlock(nn.Module):
    """A NAFNet block whose normalised features are scaled and shifted by the time embedding.

    Args:
        channels: number of channels C of the feature maps `[B, C, H, W]`.
        time_features: number of features of the time embedding.
    """

    def __init__(self, channels: int, time_features: int) -> None:
        super().__init__()
        self.time = nn.Sequential(SimpleGate(), nn.Linear(time_features // 2, 4 * channels))
        self.norms = nn.ModuleList([ChannelNorm(channels), ChannelNorm(channels)])
        self.spread = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels),
            SimpleGate(),
        )
        self.weight = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.mix = nn.Conv2d(channels, channels, 1)
        self.feed = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1), SimpleGate(), nn.Conv2d(channels, channels, 1))
        self.scales = nn.ParameterList(nn.Parameter(torch.zeros(1, channels, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale, second_shift, second_scale = self.time(time)[:, :, None, None].chunk(4, dim=1)
        made = self.spread(self.norms[0](x) * (1 + scale) + shift)
        x = x + self.scales[0] * self.mix(made * self.weight(made))
        made = self.norms[1](x) * (1 + second_scale) + second_shift
        return x + self.scales[1] * self.feed(made)


class EANet(nn.Module):
    """Estimate the noise in a diffusion state, which lies between a degraded and a clean image.

    Images of any size are zero-padded below and to the right to multiples of 2^levels. The paper's network has
    20,403,719 parameters.

    Args:
        channels: channels of the images.
        width: number of channels after the first convolution. Each level doubles the number of channels.
        encoder: number of blocks at each encoder level, from full resolution down.
        middle: number of blocks at the coarsest level.
        decoder: number of blocks at each level of the decoder, the coarsest first.
        enhanced: whether gated convolutions (the paper's CPEM) enhance the fused features; false gives the paper's
            ablation without the CPEM.
        checkpointed: whether to recompute the blocks' activations in the backward pass instead of storing them.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        encoder: Sequence[int] = (14, 1, 1, 1),
        middle: int = 1,
        decoder: Sequence[int] = (1, 1, 1, 1),
        enhanced: bool = True,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        at_least(1, channels=channels, width=width, middle=middle)
        if len(encoder) != len(decoder) or not encoder:
            raise ValueError(
                f"encoder and decoder must have the same number of levels, got {len(encoder)} and {len(decoder)}"
            )
        self.width = width
        self.checkpointed = checkpointed
        time_features = 4 * width
        self.time = nn.Sequential(
            nn.Linear(width, 2 * time_features), SimpleGate(), nn.Linear(time_features, time_features)
        )
        self.first = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.enhance = GatedConvolutions(width) if enhanced else None
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        self.encoders, self.downs, self.ups, self.decoders = (nn.ModuleList() for _ in range(4))

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(EANetBlock(width, time_features) for _ in range(count))

        for count in encoder:
            self.encoders.append(blocks(count))
            self.downs.append(nn.Conv2d(width, 2 * width, 2, stride=2))
            width *= 2
        self.middles = blocks(middle)
        for count in decoder:
            self.ups.append(nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), nn.PixelShuffle(2)))
            width //= 2
            self.decoders.append(blocks(count))

    def forward(self, x: Tensor, degraded: Tensor | None = None, time: Tensor | float = 0) -> Tensor:
        """Estimate the noise in a state x_t; or restore a degraded image, if used as the regression baseline.

        Args:
            x: the state x_t, `[B, C, H, W]`. For the regression baseline, this is the degraded image, and the other
                arguments are omitted.
            degraded: degraded image mu, shaped like `x`.
            time: time t, `[B]`, or one number for the whole batch.

        Returns:
            `[B, C, H, W]`.
        """
        if degraded is None:
            return x + self(x, x)
        times = torch.as_tensor(time, device=x.device).expand(x.shape[0])
        embedded = self.time(get_timestep_embedding(times, self.width, downscale_freq_shift=1).to(x.dtype))
        height, width = x.shape[2:]
        multiple = 2 ** len(self.downs)
        h = torch.cat([x - degraded, degraded], dim=1)
        h = self.first(F.pad(h, (0, -width % multiple, 0, -height % multiple)))
        h = h if self.enhance is None else h + self.enhance(h)
        kept = []
        for blocks, down in zip(self.encoders, self.downs, strict=True):
            h = self._through(blocks, h, embedded)
            kept.append(h)
            h = down(h)
        h = self._through(self.middles, h, embedded)
        for up, blocks in zip(self.ups, self.decoders, strict=True):
            h = self._through(blocks, up(h) + kept.pop(), embedded)
        return self.last(h)[..., :height, :width]

    def _through(self, blocks: nn.Module, h: Tensor, embedded: Tensor) -> Tensor:
        for block in blocks.children():
            if self.checkpointed and torch.is_grad_enabled():
                h = checkpoint(block, h, embedded, use_reentrant=False)
            else:
                h = block(h, embedded)
        return h


def ediffsr_weights(network: EANet, path: str) -> EANet:
    """Load weights that the authors of EDiffSR published, such as `180000_G.pth`.

    If the network is on the meta device, where parameters have no values, the file is not read.

    Args:
        network: `EANet` with the layout of the file; configs/ediffsr/aid.yaml has the layout of the published weights.
        path: downloaded file.
    """
    if on_meta(network):
        return network
    load(network, {_own_name(key): value for key, value in read_weights(path).items()}, path)
    return network


def _own_name(key: str) -> str:
    """Translate a published layer name. An unknown name is returned unchanged, and is reported later."""
    block = re.fullmatch(r"((?:en|de)coders\.\d+\.\d+|middle_blks\.\d+)\.(.+)", key)
    if block is None:
        return renamed_key(key, PUBLISHED)
    return f"{block[1].replace('middle_blks', 'middles')}.{renamed_key(block[2], PUBLISHED_IN_BLOCKS)}"
