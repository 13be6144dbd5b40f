"""The vote fractions of a smoothed classifier, as a function of images and noise that can be exported."""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.interfaces import Exported, ExportedInput, SmoothedClassifier


def vote_fractions(smoothed: SmoothedClassifier, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Compute the fraction of votes for each class over noisy copies of each image.

    Args:
        smoothed: the smoothed classifier.
        image: `[B, C, H, W]`, in [0, 1].
        noise: standard normal noise, `[N, C, H, W]`; the same N samples are used for every image.
        sigma: standard deviation of the noise, in pixel units.

    Returns:
        Vote fractions `[B, K]`; the class with the largest entry is the smoothed classifier's prediction.
    """
    images = image[:, None].expand(-1, noise.shape[0], -1, -1, -1).flatten(end_dim=1)
    noises = noise[None].expand(image.shape[0], -1, -1, -1, -1).flatten(end_dim=1)
    logits = smoothed.smoothed_logits(images, noises, sigma)
    classes = torch.arange(logits.shape[2], device=logits.device)
    votes = (logits.argmax(dim=2)[:, :, None] == classes).to(image.dtype)
    return votes.unflatten(1, (image.shape[0], noise.shape[0])).mean(dim=(0, 2))


def exported_votes(smoothed: Any, sigma: float) -> Exported:
    """Export `vote_fractions` as a function of images and noise. See `interfaces.Exportable`."""
    return Exported(
        "smoothed classifier",
        lambda image, noise: vote_fractions(smoothed, image, noise, sigma),
        {
            "image": ExportedInput("B C H W"),
            "noise": ExportedInput("N C H W", torch.randn, "N samples of standard normal noise, new in each call"),
        },
        "fractions",
        "B K",
        f"fractions of votes for the classes, under noise of standard deviation {sigma:g}",
    )
