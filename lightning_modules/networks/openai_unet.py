"""Load OpenAI's weights of improved diffusion and guided diffusion into diffusers' `UNet2DModel`.

OpenAI's and diffusers' U-Nets have the same layers in the same order, but name them differently. In the published
files, the layers of `input_blocks` and of `output_blocks` are numbered across all levels. A residual block and the
attention after it have the same number. In each attention, one tensor contains the weights of queries, keys and values,
head by head.

Source: Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, ICML 2021, arXiv 2102.09672; Dhariwal
and Nichol, Diffusion Models Beat GANs on Image Synthesis, NeurIPS 2021, arXiv 2105.05233; names as in their code.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_modules.backbones.weights import load, on_meta, read_weights

RESIDUAL = {  # layers of a residual block
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def openai_weights(network: nn.Module, path: str) -> nn.Module:
    """Load weights published by OpenAI, `cifar10_uncond_50M_500K.pt` or `256x256_diffusion_uncond.pt`, into a U-Net.

    The file is not read on the meta device, because parameters on this device have no values.

    Args:
        network: a diffusers `UNet2DModel` with the same layout as the file.
        path: downloaded file; the READMEs of openai/improved-diffusion and openai/guided-diffusion contain the links.
    """
    if on_meta(network):
        return network
    if not Path(path).exists():
        raise FileNotFoundError(
            f"{path} does not exist; the readme files of openai/improved-diffusion and openai/guided-diffusion link to "
            f"cifar10_uncond_50M_500K.pt and 256x256_diffusion_uncond.pt"
        )
    load(network, in_diffusers_names(read_weights(path), network), path)
    return network


def in_diffusers_names(published: Mapping[str, Tensor], unet: nn.Module) -> dict[str, Tensor]:
    """Convert a published state dict to the names and shapes of `unet`, which must have the same layout of layers."""
    left = dict(published)
    renamed: dict[str, Tensor] = {}

    def take(name: str) -> Tensor:
        if name not in left:
            raise ValueError(
                f"the published weights have no {name}, which this layout needs: the file has a different layout"
            )
        return left.pop(name)

    for source, target in layers(unet):
        layer: Any = unet.get_submodule(target)
        for kind in ("weight", "bias"):
            if hasattr(layer, "to_q"):
                renamed[f"{target}.group_norm.{kind}"] = take(f"{source}.norm.{kind}")
                parts = _split(take(f"{source}.qkv.{kind}"), layer.heads)
                renamed |= {f"{target}.to_{name}.{kind}": part for name, part in zip("qkv", parts, strict=True)}
                renamed[f"{target}.to_out.0.{kind}"] = take(f"{source}.proj_out.{kind}").flatten(1 - (kind == "bias"))
            elif hasattr(layer, "norm1"):
                for own, theirs in RESIDUAL.items():
                    if getattr(layer, own) is not None:
                        renamed[f"{target}.{own}.{kind}"] = take(f"{source}.{theirs}.{kind}")
            else:
                renamed[f"{target}.{kind}"] = take(f"{source}.{kind}")
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise ValueError(f"the network has no layer for the published {', '.join(sorted(left)[:3])}{more}")
    return renamed


def layers(unet: Any) -> Iterator[tuple[str, str]]:
    """Yield the published name and the diffusers name of each residual block, attention and single layer."""
    yield "time_embed.0", "time_embedding.linear_1"
    yield "time_embed.2", "time_embedding.linear_2"
    yield "input_blocks.0.0", "conv_in"
    number = 1
    for level, block in enumerate(unet.down_blocks):
        name = f"down_blocks.{level}"
        for layer in range(len(block.resnets)):
            yield from _residual_and_attention(f"input_blocks.{number}", block, name, layer)
            number += 1
        if block.downsamplers:
            yield _sampler(f"input_blocks.{number}.0", "op", f"{name}.downsamplers.0", block.downsamplers[0])
            number += 1
    for number, name in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        yield f"middle_block.{number}", f"mid_block.{name}"
    number = 0
    for level, block in enumerate(unet.up_blocks):
        name = f"up_blocks.{level}"
        for layer in range(len(block.resnets)):
            yield from _residual_and_attention(f"output_blocks.{number}", block, name, layer)
            if block.upsamplers and layer == len(block.resnets) - 1:
                place = f"output_blocks.{number}.{1 + _attends(block)}"
                yield _sampler(place, "conv", f"{name}.upsamplers.0", block.upsamplers[0])
            number += 1
    yield "out.0", "conv_norm_out"
    yield "out.2", "conv_out"


def _residual_and_attention(source: str, block: Any, target: str, layer: int) -> Iterator[tuple[str, str]]:
    """Yield the names of a residual block and, if the level has attention, of the attention layer after it."""
    yield f"{source}.0", f"{target}.resnets.{layer}"
    if _attends(block):
        yield f"{source}.1", f"{target}.attentions.{layer}"


def _attends(block: Any) -> bool:
    return hasattr(block, "attentions")


def _sampler(source: str, convolution: str, target: str, sampler: nn.Module) -> tuple[str, str]:
    """Return the published and the diffusers name of a resampling layer, which is a residual block or a convolution."""
    if hasattr(sampler, "norm1"):
        return source, target
    return f"{source}.{convolution}", f"{target}.conv"


def _split(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Split a tensor `[3 C, C, 1]` or `[3 C]`, which is ordered by heads, into queries, keys and values."""
    by_head = qkv.view(heads, 3, -1, *qkv.shape[1:2])
    return tuple(by_head[:, part].flatten(0, 1) for part in range(3))
