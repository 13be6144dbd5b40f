"""Encoders that condition a U-Net on an image and on semantic features.

One encoder receives the image's latent, and its outputs are added in the decoder of the U-Net. The other encoder
receives semantic features, and its outputs are added in the encoder of the U-Net.

Both encoders are diffusers ControlNets: copies of the U-Net's encoder with zero-initialised outputs. In contrast to a
usual ControlNet, they receive no noisy latent, and have no hint branch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import normal_, zeros_

WIDTHS = (16, 32, 64, 128)


def control_encoder(unet: Any) -> Any:
    """Copy the encoder of a diffusers `UNet2DConditionModel` into a `ControlNetModel` without a hint branch."""
    from diffusers import ControlNetModel

    encoder: Any = ControlNetModel.from_unet(unet)
    if encoder.dtype != unet.dtype:
        encoder.to(unet.dtype)
    encoder.controlnet_cond_embedding = nn.Identity()
    if unet.is_gradient_checkpointing:
        encoder.enable_gradient_checkpointing()
    return encoder.train()


def run_control_encoder(
    encoder: Any, sample: Tensor, timestep: Tensor, text: Tensor
) -> tuple[Sequence[Tensor], Tensor]:
    """Apply a `control_encoder`; return its residuals for the skip connections and for the middle block."""
    no_hint = sample.new_zeros(())
    return encoder(sample, timestep, text, controlnet_cond=no_hint, return_dict=False)


class SemanticEncoder(nn.Module):
    """Encoder of semantic features, g_psi: four convolutions, a zero convolution and a `control_encoder`.

    In contrast to the encoder of the image, its `control_encoder` has no middle block.

    Args:
        unet: U-Net whose encoder is copied into the `control_encoder`.
        channels: number of channels of the semantic features.
    """

    def __init__(self, unet: Any, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((channels, *WIDTHS[:-1]), WIDTHS, strict=True):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.SiLU()]
        last = nn.Conv2d(WIDTHS[-1], unet.config.block_out_channels[0], 3, padding=1)
        self.embedding = nn.Sequential(*layers, last)
        for layer in layers[::2]:
            normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
            zeros_(layer.bias)  # type: ignore[arg-type]
        zeros_(last.weight)
        zeros_(last.bias)  # type: ignore[arg-type]
        self.encoder = control_encoder(unet)
        self.encoder.conv_in = nn.Identity()
        self.encoder.mid_block = None
        self.encoder.controlnet_mid_block = nn.Identity()

    def forward(self, features: Tensor, size: Sequence[int], text: Tensor) -> Sequence[Tensor]:
        """Compute one residual for each layer of the U-Net that `skip_layers` lists.

        Args:
            features: semantic features, `[B, channels, h', w']`.
            size: height and width of the latents, h, w.
            text: embedding of the text prompt, `[B, L, D]`.
        """
        embedded = F.interpolate(self.embedding(features), list(size), mode="bilinear")
        start = torch.zeros(len(features), dtype=torch.int64, device=features.device)
        return run_control_encoder(self.encoder, embedded, start, text)[0]


def skip_layers(unet: Any) -> list[nn.Module]:
    """List, in order, those layers in a U-Net's encoder whose outputs enter skip connections."""
    found: list[nn.Module] = [unet.conv_in]
    for block in unet.down_blocks:
        found += getattr(block, "attentions", None) or block.resnets
        found += block.downsamplers or []
    return found


@contextmanager
def inject_residuals(unet: Any, residuals: Sequence[Tensor] | None) -> Iterator[None]:
    """Add residuals to the outputs of a U-Net's `skip_layers`, which enter skip connections, in a `with` block."""
    at = [] if residuals is None else zip(skip_layers(unet), residuals, strict=True)
    handles = [place.register_forward_hook(partial(_add, residual)) for place, residual in at]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add(residual: Tensor, module: nn.Module, args: Any, output: Any) -> Any:
    return (output[0] + residual, *output[1:]) if isinstance(output, tuple) else output + residual
