"""Blur kernels (Gaussian, generalized Gaussian, plateau and sinc), computed for all frames at once.

Each kernel is normalised so that its taps sum to 1. Let x be the position of a tap, Sigma = R diag(s_x^2, s_y^2) R^T
and q = x^T Sigma^-1 x. Here, R is a rotation, and s_x and s_y are standard deviations. With an exponent beta and a
cut-off frequency omega, the kernels are:

    Gaussian      exp(-q / 2)
    generalized   exp(-q^beta / 2)
    plateau       1 / (1 + q^beta)
    sinc          omega J_1(omega |x|) / (2 pi |x|), and omega^2 / (4 pi) in the centre

Source: X. Wang et al., Real-ESRGAN, ICCVW 2021, arXiv 2107.10833; the formulas are from its code (BasicSR).
"""

from typing import Literal, get_args

import torch
from scipy.special import j1  # PyTorch's `bessel_j1` is accurate only to 2e-7
from torch import Tensor

Family = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso", "sinc"]
FAMILIES: tuple[Family, ...] = get_args(Family)


def taps(size: int, like: Tensor) -> Tensor:
    """Return the positions (column, row) of the taps of a kernel, relative to the centre, `[size, size, 2]`."""
    line = torch.arange(size, dtype=like.dtype, device=like.device) - size // 2
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)


def tap_distances(size: int, sigma_x: Tensor, sigma_y: Tensor, rotation: Tensor) -> Tensor:
    """Compute q of each tap, `[T, size, size]`, from T standard deviations along each axis, and T angles in radians."""
    place = taps(size, sigma_x)
    cosine, sine = (function(rotation)[:, None, None] for function in (torch.cos, torch.sin))
    along = (place[..., 0] * cosine + place[..., 1] * sine) / sigma_x[:, None, None]
    across = (place[..., 1] * cosine - place[..., 0] * sine) / sigma_y[:, None, None]
    return along.square() + across.square()


def gaussian(size: int, sigma_x: Tensor, sigma_y: Tensor, rotation: Tensor) -> Tensor:
    """Compute Gaussian kernels, `[T, size, size]`."""
    return normalize_kernels((-0.5 * tap_distances(size, sigma_x, sigma_y, rotation)).exp())


def generalized_gaussian_kernels(size: int, sigma_x: Tensor, sigma_y: Tensor, rotation: Tensor, beta: Tensor) -> Tensor:
    """Compute generalized Gaussian kernels, `[T, size, size]`.

    The kernels are heavy-tailed for `beta` < 1 and flat for `beta` > 1.
    """
    distance = tap_distances(size, sigma_x, sigma_y, rotation)
    return normalize_kernels((-0.5 * distance ** beta[:, None, None]).exp())


def plateau(size: int, sigma_x: Tensor, sigma_y: Tensor, rotation: Tensor, beta: Tensor) -> Tensor:
    """Compute plateau kernels, `[T, size, size]`."""
    distance = tap_distances(size, sigma_x, sigma_y, rotation)
    return normalize_kernels(1 / (1 + distance ** beta[:, None, None]))


def sinc(size: int, cutoff: Tensor) -> Tensor:
    """Compute circularly symmetric low-pass filters on the CPU, `[T, size, size]`.

    `cutoff` contains the cut-off frequencies, `[T]`, in radians per pixel.
    """
    radius = taps(size, cutoff).square().sum(dim=-1).sqrt()
    radius[size // 2, size // 2] = 1
    omega = cutoff[:, None, None]
    kernel = omega * torch.from_numpy(j1((omega * radius).numpy())) / (2 * torch.pi * radius)
    kernel[:, size // 2, size // 2] = cutoff.square() / (4 * torch.pi)
    return normalize_kernels(kernel)


def normalize_kernels(kernel: Tensor) -> Tensor:
    """Normalise kernels `[T, size, size]` so that each kernel sums to 1."""
    return kernel / kernel.sum(dim=(1, 2), keepdim=True)
