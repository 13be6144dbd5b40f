"""Nonlinear blur computed by a network, with a different random blur for each image."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.arguments import positive
from datamodules.corruptions.operators.interface import Operator
from datamodules.pixel_ranges import to_signed, to_unit
from datamodules.randomness.counter import CounterRNG

STREAM = 4100
"""Index of the random stream of the blur codes. The streams of masks and noise have other indices."""
MULTIPLE = 128
"""Number of image pixels per value of the blur code, along each axis."""


class NonlinearBlur(Operator):
    """Blur each image with a network and a separate random code k ~ N(0, strength^2).

    The method `of` returns the operator with the codes of a batch. The height and width of an image must be multiples
    of 128 pixels. The same code k is used for the measurement and for the reconstruction. In contrast, the authors'
    code of RED-diff samples a new k in each evaluation. The authors' code also ignores the weights of the network,
    because it loads them under wrong names with `strict=False`. Published results are therefore not comparable with
    results of this operator.

    Source: Chung, Kim, Mccann, Klasky and Ye, Diffusion Posterior Sampling for General Noisy Inverse Problems, ICLR
    2023, arXiv 2209.14687, with the network of Tran, Tran, Phung and Hoai, arXiv 2104.00317.

    Args:
        network: network that maps images in [0, 1] and codes to blurred images, such as
            `lightning_modules.networks.kernel_wizard.KernelWizard`. Its attribute `code_channels` is the number of
            channels of a code.
        strength: standard deviation of the codes.
        seed: random seed of the codes.
    """

    def __init__(self, network: nn.Module, strength: float = 1.2, seed: int = 0) -> None:
        positive(strength=strength)
        if not isinstance(getattr(network, "code_channels", None), int):
            raise TypeError(f"network must have `code_channels`, but {type(network).__name__} has none")
        self.network = network.requires_grad_(False).eval()
        self.strength = strength
        self.seed = seed
        self._copies: dict[tuple[torch.device, torch.dtype], nn.Module] = {}

    def __repr__(self) -> str:
        return f"NonlinearBlur({type(self.network).__name__}, strength={self.strength}, seed={self.seed})"

    def of(self, index: Tensor, size: tuple[int, int]) -> "BlurByCode":
        if size[0] % MULTIPLE or size[1] % MULTIPLE:
            raise ValueError(
                f"NonlinearBlur needs images whose height and width are multiples of {MULTIPLE}, got {size[0]} x "
                f"{size[1]} pixels: crop or resize them"
            )
        codes: Any = self.network.code_channels
        like = torch.empty(len(index), codes, size[0] // MULTIPLE, size[1] // MULTIPLE, device=index.device)
        return BlurByCode(self, self.strength * CounterRNG(self.seed, 0, index, STREAM).normal(like))

    def network_like(self, like: Tensor) -> nn.Module:
        """Return the network with the device and dtype of a tensor."""
        key = (like.device, like.dtype)
        if key not in self._copies:
            self._copies[key] = copy.deepcopy(self.network).to(*key)
        return self._copies[key]

    def forward(self, image: Tensor) -> Tensor:
        """Raise an error, because the codes depend on the positions of the images in the dataset.

        Raises:
            TypeError: always. Use `of` to obtain the operator for a batch of images.
        """
        raise TypeError("each image has its own blur: call NonlinearBlur.of(index, size) to get the operator")

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        return measured


@dataclass(frozen=True, eq=False)
class BlurByCode(Operator):
    """Nonlinear blur with codes k that are passed as an argument: y = clip(2 G((x + 1) / 2, k) - 1, -1, 1).

    The first estimate is y itself.

    Args:
        blur: operator that contains the network G.
        code: codes k of the images, `[B, K, H / 128, W / 128]`.
    """

    blur: NonlinearBlur
    code: Tensor

    def forward(self, image: Tensor) -> Tensor:
        return to_signed(self.blur.network_like(image)(to_unit(image), self.code.to(image))).clamp(-1, 1)

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        return measured
