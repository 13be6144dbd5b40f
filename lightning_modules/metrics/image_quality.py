"""Peak signal-to-noise ratio and structural similarity of images, as tables of denoising state them.

    PSNR = -10 log10 mean (x - y)^2,
    SSIM = mean of (2 m_x m_y + C_1)(2 s_xy + C_2) / ((m_x^2 + m_y^2 + C_1)(s_x^2 + s_y^2 + C_2))

for images in [0, 1]: the mean of squares is over pixels and channels jointly; means m, variances and the covariance s
are under a Gaussian window of 11 x 11 pixels and deviation 1.5 that lies within the image, C_1 = 0.01^2, C_2 = 0.03^2,
and the SSIM of colours is the mean of the channels'. A set's value is the mean over its images.

Three protocols are in use. Tables of additive Gaussian noise (DnCNN, FFDNet, KAIR) and of SIDD clip the estimate to
[0, 1] and compare 256 levels of it and of the clean image (`rounded`); others clip the estimate alone (`clipped`), or
measure what the network gives (`unclipped`). Clean images of 8 bits are the same in all three. Below 35 dB rounding
moves the PSNR by less than 0.01 dB.

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
"""Side of the window of the structural similarity, in pixels."""

Measure = Callable[[Tensor, Tensor, EvaluationProtocol], Tensor]
"""Maps images and clean ones, both `[B, C, H, W]`, and a protocol for the first to a number each, `[B]`."""


def as_measured(image: Tensor, protocol: EvaluationProtocol) -> Tensor:
    """Clip and round images as a protocol says, in double precision where the device has it."""
    image = image.detach().to(torch.float32 if image.device.type == "mps" else torch.float64)
    if protocol != "unclipped":
        image = image.clamp(0, 1)
    return image.mul(255).round().div(255) if protocol == "rounded" else image


def compared(image: Tensor, clean: Tensor, protocol: EvaluationProtocol) -> tuple[Tensor, Tensor]:
    """Give images and clean ones as a protocol compares them; the clean ones change by its rounding alone."""
    return as_measured(image, protocol), as_measured(clean, "rounded" if protocol == "rounded" else "unclipped")


def psnr(image: Tensor, clean: Tensor, protocol: EvaluationProtocol = "rounded") -> Tensor:
    """Compute each image's peak signal-to-noise ratio.

    Args:
        image: `[B, C, H, W]`; 1 is white.
        clean: `[B, C, H, W]` in [0, 1].
        protocol: how `image` is measured; `rounded` rounds `clean` too.

    Returns:
        `[B]`, in dB; infinite where both are equal.
    """
    return peak_signal_noise_ratio(*compared(image, clean, protocol), data_range=1.0, dim=(1, 2, 3), reduction="none")


def ssim(image: Tensor, clean: Tensor, protocol: EvaluationProtocol = "rounded") -> Tensor:
    """Compute each image's structural similarity, in the images' own precision, single at least.

    In double precision it would take fifteen times as long; the mean of a photograph differs by less than 1e-6.

    Args:
        image: `[B, C, H, W]`; 1 is white.
        clean: `[B, C, H, W]` in [0, 1].
        protocol: how `image` is measured; `rounded` rounds `clean` too.

    Returns:
        `[B]`, at most 1.

    Raises:
        ValueError: if the images are smaller than the window.
    """
    if min(image.shape[2:]) < WINDOW:
        raise ValueError(f"the structural similarity needs at least {WINDOW} pixels a side, got {list(image.shape)}")
    dtype = torch.promote_types(image.dtype, torch.float32)
    one, other = (each.to(dtype) for each in compared(image, clean, protocol))
    with in_full_precision(image.device):  # its variances are small differences
        _, similarity = structural_similarity_index_measure(
            one, other, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
        )
    border = WINDOW // 2  # torchmetrics reflects there; the field has no value
    return similarity[:, :, border:-border, border:-border].double().mean(dim=(1, 2, 3))


class ImageQuality(MeasuredItems):
    """Measures of a set's images, each with its own row, and their means over all processes.

    A module owns one, and keeps in it nothing that a checkpoint has.

    Args:
        protocol: how estimates are measured; degraded images and the clean ones beside them are taken as they are.

    Raises:
        ValueError: if there is no such protocol.
    """

    def __init__(self, protocol: EvaluationProtocol = "rounded") -> None:
        super().__init__()
        one_of(PROTOCOLS, protocol=protocol)
        self.protocol: EvaluationProtocol = protocol
        self.measures: dict[str, Measure] = {"psnr": psnr, "ssim": ssim}
        """By name; a callback may add some. In the table `noisy_<measure>` are those of the degraded image."""

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
        """Measure a batch.

        Args:
            degraded: `[B, C, H, W]`; not measured where its size is not that of the clean image. The structural
                similarity is left out for images smaller than its window.
            estimate: `[B, C, H, W]`.
            clean: `[B, C, H, W]` in [0, 1].
            index: `[B]`, position in the set.
            name: `[B]`, names of the images.
            loader: number of the set.
            others: more estimates, whose measures are `<name>_<measure>`; None has none.
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
