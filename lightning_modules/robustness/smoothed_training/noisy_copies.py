"""Noisy copies of images, for training and evaluating the base classifiers of randomised smoothing."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from datamodules.batches import global_batch_size
from datamodules.randomness.shared_batches import sample_rows
from lightning_modules.interfaces import Exported, SmoothedClassifier
from lightning_modules.robustness.certificates.vote_fractions import exported_votes
from lightning_modules.robustness.certificates.votes import GaussianSmoothing
from lightning_modules.tasks.classifier import ClassifierSteps


def noisy_copies(image: Tensor, sigma: float, num_copies: int) -> Tensor:
    """Create copies of each image with independent Gaussian noise.

    Args:
        image: `[B, C, H, W]`, in [0, 1].
        sigma: standard deviation of the noise, in pixel units.
        num_copies: number m of copies per image.

    Returns:
        Copies `[m, B, C, H, W]`. They are not clipped, because clipping would change the certified distribution.
    """
    shape = (num_copies, *image.shape)
    return image + sigma * sample_rows(torch.randn, shape, image.device, rows=1, dtype=image.dtype)


class AccuracyUnderNoise(ClassifierSteps):
    """Mixin with validation and test steps that log the accuracy on one noisy copy of each image."""

    sigma: float
    accuracy: Metric

    def noisy(self, image: Tensor, num_copies: int) -> Tensor:
        """Create noisy copies of images, `[m, B, C, H, W]`. The noise has the same distribution as in training."""
        return noisy_copies(image, self.sigma, num_copies)

    def _measure(self: Any, batch: dict[str, Any], stage: str) -> None:
        self.accuracy.update(self(self.noisy(batch["image"], num_copies=1)[0]), batch["label"])
        size = global_batch_size(batch)
        self.log(f"{stage}/accuracy_under_noise", self.accuracy, on_step=False, on_epoch=True, batch_size=size)

    def export_function(self: Any, sigma: float | None = None) -> Exported:
        """Export, as a function, the vote fractions of the smoothed classifier. See `interfaces.Exportable`."""
        sigma = self.sigma if sigma is None else sigma
        if sigma == 0:
            return super().export_function()
        return exported_votes(self if isinstance(self, SmoothedClassifier) else GaussianSmoothing(self), sigma)
