"""Call networks that are told the noise of their image, and make a classifier of one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.robustness.rrcm.noise_schedule import (
    MOST_STEPS,
    input_scale,
    nearest_level,
    network_time,
    noise_level,
)


def represent(network: nn.Module, noisy: Sequence[Tensor], t: Sequence[float]) -> tuple[Tensor, ...]:
    """Compute features of several batches in one pass: network(c_in(t) x_t, 250 ln t).

    Args:
        network: maps images `[B, C, H, W]` and times `[B]` to `[B, D]`.
        noisy: batches `[B, C, H, W]` of x_t, that is images in [-1, 1] plus noise.
        t: standard deviation of each batch's noise.

    Returns:
        `[B, D]` of each batch.
    """
    dtype = torch.promote_types(noisy[0].dtype, torch.float32)
    image = torch.cat([input_scale(level) * x for level, x in zip(t, noisy, strict=True)])
    times = [x.new_full((len(x),), network_time(level), dtype=dtype) for level, x in zip(t, noisy, strict=True)]
    return network(image, torch.cat(times)).split([len(x) for x in noisy])


class NoiseConditionedClassifier(nn.Module):
    """Classifies images in [0, 1] under noise that is known beforehand, in one pass through the network.

    Images are rescaled to [-1, 1] inside, where noise sigma becomes t = 2 sigma; the network is told the nearest of the
    81 levels that it was pre-trained at.

    Args:
        encoder: maps images and times `[B]` to features `[B, num_features]`.
        num_features: number of the encoder's features, D.
        num_classes: number of classes, K.
        sigma: standard deviation of the noise, in pixel units.
    """

    def __init__(self, encoder: nn.Module, num_features: int, num_classes: int, sigma: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(num_features, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)
        self.sigma = sigma

    def extra_repr(self) -> str:
        return f"sigma={self.sigma:g}"

    def forward(self, noisy: Tensor, sigma: float | None = None) -> Tensor:
        """Give logits `[B, K]`.

        Args:
            noisy: `[B, C, H, W]`: images in [0, 1] plus noise, not clipped.
            sigma: standard deviation of that noise, in pixel units; None stands for the constructor's.
        """
        num_levels = MOST_STEPS + 1
        t = noise_level(nearest_level(2 * (self.sigma if sigma is None else sigma), num_levels), num_levels)
        [feature] = represent(self.encoder, [2 * noisy - 1], [t])
        return self.head(feature)
