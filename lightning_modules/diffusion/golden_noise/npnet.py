"""The noise prompt network, NPNet; see the package docstring for its equations."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.normalization import AdaGroupNorm
from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from datamodules.arguments import at_least
from datamodules.files.limits import sentence
from datamodules.files.tensor_files import read_tensors
from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.backbones.weights import load, weights_file
from lightning_modules.full_precision import at_least_float32, in_full_precision

PARTS = {"unet_svd": "svd", "unet_embedding": "residual", "embeeding": "text"}
"""Dictionary that maps the names of NPNet's parts in the released files (one is misspelt) to their names here."""
UNUSED = ("svd.bn.", "residual.features.head.")
"""Unused weights in the released files: a normalisation without effect on the output, and Swin's classifier."""


def fold_tiles(x: Tensor) -> Tensor:
    """Arrange the k^2 channels of a tensor `[B, k^2, H, W]` as k x k tiles; the result is `[B, k H, k W]`."""
    k = math.isqrt(x.shape[1])
    return x.unflatten(1, (k, k)).permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)


def unfold_tiles(matrix: Tensor, k: int) -> Tensor:
    """Apply the inverse of `fold_tiles`."""
    blocks = matrix.unflatten(2, (k, -1)).unflatten(1, (k, -1))
    return blocks.permute(0, 1, 3, 2, 4).flatten(1, 2)


def fix_signs(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the signs of singular vectors: in each column of U, the entry of largest magnitude becomes positive."""
    sign = left.gather(-2, left.abs().argmax(dim=-2, keepdim=True)).sign()
    return left * sign, right * sign.mT


class SVDBranch(nn.Module):
    """Adjust the singular values of folded noise.

    The adjustment is computed by a network from the singular values and the singular vectors.

    Args:
        size: n, number of rows and of columns of the folded noise.
        attention: apply attention over the n rows, average over the rows, and then apply `mlp4`. If false, omit
            attention, apply `mlp4` to each row, and then average over the rows.
        fixed_signs: fix the signs of the singular vectors; see `fix_signs`.
    """

    def __init__(self, size: int, attention: bool, fixed_signs: bool) -> None:
        super().__init__()
        self.mlp1, self.mlp2, self.mlp4 = (
            nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, size)) for width in (64, 64, 1024)
        )
        self.mlp3 = nn.Sequential(nn.Linear(size, size))
        self.attention: Any = Attention(size, num_heads=8, qkv_bias=False) if attention else None
        self.fixed_signs = fixed_signs

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():  # PyTorch does not implement SVD in half precision
            left, values, right = torch.linalg.svd(at_least_float32(fold_tiles(x)))
            left, right = fix_signs(left, right) if self.fixed_signs else (left, right)
            left, values, right = (part.to(x.dtype) for part in (left, values, right))
        rows = self.mlp1(left.mT) + self.mlp2(right) + self.mlp3(values)[:, None]
        plain = self.attention is None
        moved = self.mlp4(rows).mean(dim=1) if plain else self.mlp4(self.attention(rows).mean(dim=1))
        return unfold_tiles((left * (moved + values)[:, None]) @ right, math.isqrt(x.shape[1]))


class ResidualBranch(nn.Module):
    """Resize noise to the input size of an image network, apply the network, and resize its output back.

    Args:
        channels: c, number of channels of the noise.
        features: network that computes feature maps, `[B, feature_channels, ., .]`, of images, `[B, 3, image_size,
            image_size]`.
        feature_channels: number of channels of the feature maps.
        image_size: height and width of the image network's input.
    """

    def __init__(self, channels: int, features: nn.Module, feature_channels: int, image_size: int) -> None:
        super().__init__()
        self.downconv = nn.Conv2d(channels, 3, 1)
        self.features = features
        self.upconv = nn.Conv2d(feature_channels, channels, 1)
        self.image_size = image_size

    def forward(self, x: Tensor) -> Tensor:
        image = self.downconv(F.interpolate(x, [self.image_size, self.image_size]))
        maps = getattr(self.features, "forward_features", self.features)(image)
        return self.upconv(F.interpolate(maps, list(x.shape[2:])))


class NPNet(nn.Module):
    """Predict better initial noise from standard normal noise and a text.

    The network computes at least in float32, even if the trainer's precision is lower. The singular value decomposition
    is not part of the autograd graph. It synchronises the GPU with the host, because PyTorch checks its result on the
    host.

    Args:
        latent_shape: shape (c, h, w) of the noise; c must be a square number, and h must equal w.
        prompt_features: L D, number of values in a text embedding. Because this number is fixed, NPNet works with only
            one text encoder.
        features: image network of the residual branch, such as Swin-T from `lightning_modules.backbones.timm_model`
            with `normalize: false` and `num_classes: 0`.
        feature_channels: size of the second dimension of the feature maps. For timm's Swin, this size is 7, because its
            feature maps are channels-last, and the authors use the 7 rows of a feature map as channels.
        image_size: height and width of the input of `features`.
        attention: apply attention over the rows of singular vectors, as in the authors' inference code; their training
            code omits this attention.
        fixed_signs: make the entry of largest magnitude in each left singular vector positive. Without this option, the
            signs depend on the machine and the library. The released weights were trained without this option.
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        prompt_features: int,
        features: nn.Module,
        feature_channels: int = 7,
        image_size: int = 224,
        attention: bool = True,
        fixed_signs: bool = True,
    ) -> None:
        super().__init__()
        at_least(1, prompt_features=prompt_features, feature_channels=feature_channels, image_size=image_size)
        if len(latent_shape) != 3 or min(latent_shape) < 1:
            raise ValueError(f"latent_shape must be three positive integers c, h, w, got {list(latent_shape)}")
        channels, height, width = self.latent_shape = tuple(latent_shape)
        if math.isqrt(channels) ** 2 != channels or height != width:
            raise ValueError(
                f"latent_shape must have a square number of channels and h = w, to fold to a square matrix, got "
                f"{list(latent_shape)}"
            )
        size = math.isqrt(channels) * height
        if attention and size % 8:
            raise ValueError(f"latent_shape {list(latent_shape)} folds to {size} rows, but needs a multiple of 8 rows")
        self.svd = SVDBranch(size, attention, fixed_signs)
        self.residual = ResidualBranch(channels, features, feature_channels, image_size)
        self.text = AdaGroupNorm(prompt_features, channels, 1, eps=1e-6)
        self.alpha, self.beta = (nn.Parameter(torch.zeros(1)) for _ in range(2))
        self.prompt_features = prompt_features

    def forward(self, noise: Tensor, prompts: Prompts) -> Tensor:
        """Predict improved noise, `[B, c, h, w]`, from noise and B embedded texts."""
        x = noise.to(self.alpha.dtype)
        text = prompts.embedding.flatten(1).to(x)
        if x.shape[1:] != self.latent_shape:
            raise ValueError(f"latent_shape is {list(self.latent_shape)}, but the noise has {list(x.shape[1:])}")
        if text.shape[1] != self.prompt_features:
            raise ValueError(f"prompt_features is {self.prompt_features}, but a text embedding has {text.shape[1]}")
        with in_full_precision(x.device):
            e = self.text(x, text)
            golden = self.svd(x) + (2 * self.alpha.sigmoid() - 1) * e + self.beta * self.residual(x + e)
        return golden.to(noise.dtype)


def with_released_weights(network: NPNet, path: str) -> NPNet:
    """Load weights in the authors' file format into an NPNet.

    If the network is on the meta device, no weights are loaded.

    Args:
        network: NPNet whose sizes match the weights, with `attention` and without `fixed_signs`.
        path: `.pth` file, such as the released `sdxl.pth`.
    """
    if network.alpha.is_meta:
        return network
    file = weights_file(path)
    content = read_tensors(file)
    try:
        parts = {own: {**content[name]} for name, own in PARTS.items()}
        weights = {name: content[name].detach().view(1) for name in ("alpha", "beta")}
        if not all(isinstance(value, Tensor) for part in parts.values() for value in part.values()):
            raise TypeError("values are not tensors")
    except (RuntimeError, LookupError, TypeError, AttributeError) as error:
        names = ", ".join((*PARTS, "alpha", "beta"))
        raise ValueError(f"{file} must contain {names} of an NPNet: {type(error).__name__} {error}") from error
    swin = {key.removeprefix("swin."): value for key, value in parts["residual"].items() if key.startswith("swin.")}
    if isinstance(network.residual.features, SwinTransformer):  # the file has timm's old layer names
        try:
            swin = checkpoint_filter_fn(swin, network.residual.features)
        except Exception as error:  # wrong tensor shapes can cause almost any exception
            raise ValueError(f"{file}: weights of the Swin transformer do not fit: {sentence(error)}") from error
    own = {key: value for key, value in parts["residual"].items() if not key.startswith("swin.")}
    parts["residual"] = own | {f"features.{key}": value for key, value in swin.items()}
    weights |= {f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}
    load(network, {key: value for key, value in weights.items() if not key.startswith(UNUSED)}, file)
    return network
