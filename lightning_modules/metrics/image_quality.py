"""PSNR and SSIM of images, computed as for published denoising results.

    PSNR = -10 log10 mean (x - y)^2,
    SSIM = mean of (2 m_x m_y + C_1)(2 s_xy + C_2) / ((m_x^2 + m_y^2 + C_1)(s_x^2 + s_y^2 + C_2))

Images are in [0, 1]. The mean of squares runs over all pixels and channels. The means m, the variances s_x^2 and s_y^2,
and the covariance s_xy are computed with the weights of a Gaussian window, which has 11 x 11 pixels and a standard
deviation of 1.5. Only windows that lie inside the image are used. The constants are C_1 = 0.01^2 and C_2 = 0.03^2. The
SSIM of a colour image is the mean over its channels. A dataset's value is the mean over its images.

For published tables, images are preprocessed by one of three protocols. For additive Gaussian noise (DnCNN, FFDNet,
KAIR) and SIDD, the estimate is clipped to [0, 1] and both images are rounded to 256 levels (`rounded`). Other tables
only clip the estimate (`clipped`), or use the network's output unchanged (`unclipped`). Clean 8-bit images are not
changed by any protocol. If the PSNR is below 35 dB, rounding changes it by less than 0.01 dB.

Sources: Wang, Bovik, Sheikh and Simoncelli, Image Quality Assessment: From Error Visibility to Structural Similarity,
IEEE Transactions on Image Processing 2004; Zhang et al., Beyond a Gaussian Denoiser, IEEE Transactions on Image
Processing 2017, arXiv 1608.03981, and the authors' test scripts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from datamodules.arguments import one_of
from lightning_modules.full_precision import in_full_precision
from lightning_modules.metrics.measured_items import MeasuredItems

EvaluationProtocol = Literal["rounded", "clipped", "unclipped"]
PROTOCOLS: tuple[EvaluationProtocol, ...] = ("rounded", "clipped", "unclipped")
WINDOW = 11
"""Side of SSIM's window, in pixels."""

Measure = Callable[[Tensor, Tensor, EvaluationProtocol], Tensor]
"""Function that maps images, clean images (both `[B, C, H, W]`) and a protocol to one number per image, `[B]`."""


def as_measured(image: Tensor, protocol: EvaluationProtocol) -> Tensor:
    """Clip and round images as a protocol prescribes, in float64 if the device supports it."""
    image = image.detach().to(torch.float32 if image.device.type == "mps" else torch.float64)
    if protocol != "unclipped":
        image = image.clamp(0, 1)
    return image.mul(255).round().div(255) if protocol == "rounded" else image


def preprocess_pair(image: Tensor, clean: Tensor, protocol: EvaluationProtocol) -> tuple[Tensor, Tensor]:
    """Preprocess images and clean images as a protocol prescribes; clean images are rounded or left unchanged."""
    return as_measured(image, protocol), as_measured(clean, "rounded" if protocol == "rounded" else "unclipped")


def psnr(image: Tensor, clean: Tensor, protocol: EvaluationProtocol = "rounded") -> Tensor:
    """Compute each image's peak signal-to-noise ratio (PSNR).

    Args:
        image: `[B, C, H, W]`; 1 is white.
        clean: `[B, C, H, W]` in [0, 1].
        protocol: preprocessing of `image`. With `rounded`, `clean` is rounded, too.

    Returns:
        `[B]`, in dB; infinite for equal images.
    """
    return peak_signal_noise_ratio(
        *preprocess_pair(image, clean, protocol), data_range=1.0, dim=(1, 2, 3), reduction="none"
    )


def ssim(image: Tensor, clean: Tensor, protocol: EvaluationProtocol = "rounded") -> Tensor:
    """Compute each image's structural similarity (SSIM), in the precision of the images, but at least in float32.

    Computation in float64 would take fifteen times as long, and change a photograph's mean SSIM by less than 1e-6.

    Args:
        image: `[B, C, H, W]`; 1 is white.
        clean: `[B, C, H, W]` in [0, 1].
        protocol: preprocessing of `image`. With `rounded`, `clean` is rounded, too.

    Returns:
        `[B]`, at most 1.

    Raises:
        ValueError: if the images are smaller than the window.
    """
    if min(image.shape[2:]) < WINDOW:
        raise ValueError(f"SSIM needs at least {WINDOW} pixels per side, got {list(image.shape)}")
    dtype = torch.promote_types(image.dtype, torch.float32)
    one, other = (each.to(dtype) for each in preprocess_pair(image, clean, protocol))
    with in_full_precision(image.device):  # variances are small differences of large numbers
        _, similarity = structural_similarity_index_measure(
            one, other, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
        )
    border = WINDOW // 2  # torchmetrics pads by reflection, whereas published tables leave out the border
    return similarity[:, :, border:-border, border:-border].double().mean(dim=(1, 2, 3))


BUILT_IN: dict[str, Measure] = {"psnr": psnr, "ssim": ssim}
"""Measures that every `ImageQuality` computes."""


class ImageQuality(MeasuredItems):
    """Metrics of the images of a dataset: one row per image, and the means over the images of all ranks.

    Each LightningModule owns one instance, which is not saved in checkpoints.

    Args:
        protocol: preprocessing of estimates; degraded images are never preprocessed.
    """

    def __init__(self, protocol: EvaluationProtocol = "rounded") -> None:
        super().__init__()
        one_of(PROTOCOLS, protocol=protocol)
        self.protocol: EvaluationProtocol = protocol
        self.measures: dict[str, Measure] = dict(BUILT_IN)
        """Measures by name; callbacks may add some. The column `noisy_<measure>` is for the degraded image."""

    def update(
        self,
        degraded: Tensor,
        estimate: Tensor,
        clean: Tensor,
        index: Tensor,
        name: Sequence[str],
        loader: int = 0,
        others: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add the metrics of a batch.

        Args:
            degraded: degraded images, `[B, C, H, W]`. They are measured only if they are as large as the clean images.
                SSIM is not computed for any of the images if they are smaller than its window.
            estimate: `[B, C, H, W]`.
            clean: `[B, C, H, W]` in [0, 1].
            index: positions in the dataset, `[B]`.
            name: names of the B images.
            loader: index of the dataloader.
            others: further estimates, by name. Their metrics are named `<name>_<measure>`.
        """
        values = {}
        for key, measure in self.measures.items():
            if measure is ssim and min(clean.shape[2:]) < WINDOW:
                continue
            if degraded.shape == clean.shape:
                values[f"noisy_{key}"] = measure(degraded, clean, "unclipped")
            values[key] = measure(estimate, clean, self.protocol)
            for other, image in (others or {}).items():
                values[f"{other}_{key}"] = measure(image, clean, self.protocol)
        self.add(values, index, name, loader)
