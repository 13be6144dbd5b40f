"""Angular errors between estimated normals m and true normals n, in degrees, pooled over all pixels of a dataset.

    error = arccos <n, m / |m|>.

The cosine is clipped to [-1, 1]. Only pixels whose true normal n has a length between 0.5 and 1.5 are included, and n
is not normalised. The metrics are the mean and the median of the errors, the percentages of errors below 11.25, 22.5
and 30 degrees, and the root mean square of |n - m|. If there are several noise samples, the variance of an image's mean
error over the samples is also computed, and averaged over images. For the depth error, heights are integrated from
estimated normals and from true normals (see `surface`). The depth error of an image is the root mean square of the
difference between these heights, in pixels. The depth errors are averaged over the noise samples, and over those images
in which all pixels have a true normal.

The median is computed from a histogram, which is summed over ranks. It is accurate to the bin width of 0.01 degrees.

Source: code of Ye et al., StableNormal, arXiv 2406.16864, which reads 8-bit images and computes the root mean
square for each image.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.diffusion.stable_normal.surface import heights

THRESHOLDS = {"within_11_25": 11.25, "within_22_5": 22.5, "within_30": 30.0}
BINS_PER_DEGREE = 100
NUM_BINS = 180 * BINS_PER_DEGREE


def known_normals(normal: Tensor) -> Tensor:
    """Return a mask, `[..., H, W]`, of the pixels where normal maps, `[..., 3, H, W]`, contain a known normal."""
    length = normal.norm(dim=-3)
    return (length > 0.5) & (length < 1.5)


def unit(normal: Tensor, eps: float = 1e-6) -> Tensor:
    """Normalise vectors, `[..., 3, H, W]`, to length 1.

    The divisor is at least `eps`, so zero vectors stay zero.
    """
    return normal / normal.norm(dim=-3, keepdim=True).clamp(min=eps)


def angular_error(estimate: Tensor, true: Tensor) -> Tensor:
    """Compute angles, `[..., H, W]`, between normals, `[..., 3, H, W]`; only the estimates are first normalised."""
    return (unit(estimate) * true).sum(dim=-3).clamp(-1, 1).arccos().rad2deg()


def angular_spread(estimates: Tensor) -> Tensor:
    """Compute the mean angle of the normals from K noise samples, `[K, B, 3, H, W]`, to their mean direction."""
    return angular_error(estimates, unit(unit(estimates).mean(dim=0))).mean(dim=0)


class AngularErrors(Metric):
    """Angular errors, pooled over all pixels, noise samples and ranks, and depth errors of whole images."""

    full_state_update = False
    angles: Tensor
    squares: Tensor
    variances: Tensor
    depths: Tensor
    pixels: Tensor
    images: Tensor
    surfaces: Tensor
    within: Tensor
    histogram: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("angles", "squares", "variances", "depths"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("pixels", "images", "surfaces"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("within", torch.zeros(len(THRESHOLDS), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("histogram", torch.zeros(NUM_BINS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, estimate: Tensor, true: Tensor) -> None:
        """Add the errors of a batch of images.

        Args:
            estimate: normals from K noise samples, `[K, B, 3, H, W]`.
            true: true normals, `[B, 3, H, W]`.
        """
        estimate, true = estimate.double(), true.double()
        counted = known_normals(true)
        errors, draws = angular_error(estimate, true), len(estimate)
        pooled = errors[:, counted]
        self.angles += pooled.sum()
        self.squares += (unit(estimate) - true).square().sum(dim=-3)[:, counted].sum()
        self.pixels += pooled.numel()
        self.within += torch.stack([(pooled < threshold).sum() for threshold in THRESHOLDS.values()])
        bins = (pooled * BINS_PER_DEGREE).long().clamp(max=NUM_BINS - 1)
        self.histogram += torch.bincount(bins.flatten(), minlength=NUM_BINS)
        number = counted.sum(dim=(1, 2))
        means = (errors * counted).sum(dim=(2, 3)) / number.clamp(min=1)
        if draws > 1:
            self.variances += means.var(dim=0, correction=0).sum()
        self.images += (number > 0).sum()
        if whole := counted.all(dim=(1, 2)).nonzero()[:, 0].tolist():
            difference = heights(unit(estimate[:, whole])) - heights(unit(true[whole]))
            self.depths += difference.square().mean(dim=(2, 3)).sqrt().mean(dim=0).sum()
            self.surfaces += len(whole)

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name; metrics without data are nan.

        For example, the depth error is nan if no image has a true normal at every pixel.
        """
        pixels = self.pixels.double()
        seen = self.histogram.cumsum(dim=0).double()
        middle = (seen >= pixels / 2).int().argmax()
        before = seen[middle] - self.histogram[middle]
        part = (pixels / 2 - before) / self.histogram[middle]
        return {
            "mean_error": self.angles / pixels,
            "median_error": (middle + part) / BINS_PER_DEGREE,
            **{name: 100 * count / pixels for name, count in zip(THRESHOLDS, self.within, strict=True)},
            "rmse": (self.squares / pixels).sqrt(),
            "variance": self.variances / self.images.double(),
            "depth_error": self.depths / self.surfaces.double(),
        }
