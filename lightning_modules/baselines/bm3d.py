"""Denoising by block matching and 3-D collaborative filtering (BM3D), without training.

Similar blocks of the image are stacked. Thresholding the transform of each stack gives a first estimate. The spectrum
of this estimate then defines a Wiener filter for the stack. Each pixel of the result is the weighted mean of its
estimates from all blocks that contain the pixel.

The implementation is the authors' package `bm3d` with its default profile. The licence of the package allows only
non-commercial use. With noise of standard deviation 25 grey levels, BM3D reaches 28.57 dB on the 68 grey images of
BSD68 (tables of the DnCNN paper). On colour images, BM3D reaches 30.71 dB on CBSD68 and 31.68 dB on Kodak24 (tables of
the FFDNet paper).

Source: Dabov, Foi, Katkovnik and Egiazarian, Image Denoising by Sparse 3-D Transform-Domain Collaborative Filtering,
IEEE Transactions on Image Processing 2007.
"""

from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import positive
from datamodules.corruptions.image_noise.poisson_gaussian import (
    estimate_poisson_gaussian,
    invert_stabilization,
    stabilize_variance,
)
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.tasks.restorer import RestorerSteps

MISSING = 'BM3D needs the package bm3d: pip install "noiseworks[bm3d]"'


def bm3d_filtered(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """Denoise a grey or RGB image, `[H, W, C]`, that has noise of standard deviation `sigma`."""
    import bm3d

    filtered = bm3d.bm3d_rgb(noisy, sigma) if noisy.shape[2] == 3 else bm3d.bm3d(noisy[..., 0], sigma)
    return filtered.reshape(noisy.shape)


def estimated_deviation(noisy: Tensor) -> Tensor:
    """Estimate the standard deviation of white noise as median |w| / 0.6745, where w are Haar wavelet coefficients.

    Only the diagonal coefficients at the finest scale are used.

    Args:
        noisy: images `[B, C, H, W]` of at least 2 x 2 pixels.

    Returns:
        Standard deviations `[B]`, averaged over channels. They are at least 0.0001, because the filter needs a positive
        value.

    Source: Donoho and Johnstone, Ideal Spatial Adaptation by Wavelet Shrinkage, Biometrika 1994.
    """
    height, width = (side // 2 * 2 for side in noisy.shape[2:])
    first, second = noisy[..., :height:2, :width], noisy[..., 1:height:2, :width]
    diagonal = (first[..., ::2] - first[..., 1::2] - second[..., ::2] + second[..., 1::2]) / 2
    return (diagonal.abs().flatten(2).median(dim=2).values / 0.6745).mean(dim=1).clamp(min=1e-4)


class BM3D(RestorerSteps, MethodModule):
    """Denoise grey or colour images with BM3D on the CPU. BM3D needs no training: use only `test` and `predict`.

    Args:
        grey_levels: standard deviation of the noise in grey levels, where white is 255; None estimates it separately
            for each image, from the finest wavelet coefficients.
        poisson_gaussian: whether the noise grows with the brightness, as in images of microscopes and cameras. Gain and
            read noise are then estimated for each channel of each image, and the filter is applied to the variance-
            stabilised image.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.

    Examples:
        >>> clean = torch.full((1, 1, 32, 32), 0.5)
        >>> noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        >>> bool((BM3D(grey_levels=25.5).restore(noisy) - clean).std() < 0.02)
        True
    """

    def __init__(
        self,
        grey_levels: float | None = None,
        poisson_gaussian: bool = False,
        protocol: EvaluationProtocol = "rounded",
    ) -> None:
        super().__init__()
        positive(grey_levels=grey_levels)
        if poisson_gaussian and grey_levels is not None:
            raise ValueError(f"grey_levels must be null with poisson_gaussian, got {grey_levels}")
        self.grey_levels = grey_levels
        self.poisson_gaussian = poisson_gaussian
        self.quality = ImageQuality(protocol)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            raise ValueError("BM3D cannot be trained: run test or predict, without fit")
        if find_spec("bm3d") is None:
            raise ImportError(MISSING)

    def forward(self, noisy: Tensor) -> Tensor:
        return self.restore(noisy)

    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if self.poisson_gaussian:
            return self._filter_stabilized(degraded)
        return self._filter(degraded, None if self.grey_levels is None else self.grey_levels / 255)

    def denoise(self, noisy: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Estimate clean images in [0, 1].

        The standard deviation `sigma` of the noise is a single number, or one number per image.
        """
        return self._filter(noisy, sigma).clamp(0, 1)

    def _filter_stabilized(self, noisy: Tensor) -> Tensor:
        gain, variance = (each[..., None, None] for each in estimate_poisson_gaussian(noisy))
        stable = stabilize_variance(noisy.double().cpu(), gain, variance)
        low = stable.amin(dim=(1, 2, 3), keepdim=True)
        span = (stable.amax(dim=(1, 2, 3), keepdim=True) - low).clamp(min=1)
        filtered = self._filter((stable - low) / span, 1 / span.flatten()) * span + low
        return invert_stabilization(filtered, gain, variance).to(noisy)

    def _filter(self, noisy: Tensor, sigma: float | Tensor | None) -> Tensor:
        images = noisy.double().cpu().permute(0, 2, 3, 1).numpy()
        if sigma is None:
            deviations = estimated_deviation(noisy).tolist()
        else:
            deviations = torch.as_tensor(sigma).expand(len(images)).tolist()
        filtered = [bm3d_filtered(one, deviation) for one, deviation in zip(images, deviations, strict=True)]
        return torch.from_numpy(np.stack(filtered)).permute(0, 3, 1, 2).to(noisy)
