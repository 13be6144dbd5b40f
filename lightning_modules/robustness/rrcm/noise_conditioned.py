"""Noise levels and schedules of pre-training, and a classifier that is conditioned on a single noise level.

A noise trajectory is x_t = x + t e, where images x are in [-1, 1]. Noise of standard deviation sigma on images in [0,
1] therefore corresponds to the level t = 2 sigma. The N levels, in decreasing order, are the noise levels of EDM
(Karras et al., 2022):

    t_i = (80^{1/7} + i / (N - 1) (0.002^{1/7} - 80^{1/7}))^7,   i = 0 ... N - 1.

With s_0 = 20 and s_1 = 80, the number of levels in training step k of K is

    N(k) = min(s_0 2^{ceil(k / K')}, s_1) + 1,   K' = ceil(K / log2(ceil(s_1 / s_0) + 1)).

Let e(k) = sqrt(k / K (.9999^2 - .99^2) + .99^2). The decay of the target network is mu(k):

    c(k) = 2 / (1 + exp(-A (e(k) - .99) / (.9999 - .99))) - 1,
    mu(k) = .9999 c(k) + .99 (1 - c(k)).

The inputs of the network are c_in(t) x_t and the time 250 ln t. The factor c_in = 1 / sqrt(t^2 + 1/4) scales x_t to
unit variance.

The ceil in N(k) follows the authors' code. As a consequence, there are 21 levels only at k = 0.

Source: Lei et al., Robust Representation Consistency Model via Contrastive Denoising, ICLR 2025, arXiv 2501.13094, with
the numbers of the authors' code; Karras, Aittala, Aila and Laine, Elucidating the Design Space of Diffusion-Based
Generative Models, NeurIPS 2022, arXiv 2206.00364.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datamodules.pixel_ranges import to_signed

LARGEST, SMALLEST = 80.0, 0.002
DATA_DEVIATION = 0.5
FEWEST_STEPS, MOST_STEPS = 20, 80
LEAST_KEPT, MOST_KEPT = 0.99, 0.9999


def noise_level(index: int, num_levels: int) -> float:
    """Compute the noise level t_i for images in [-1, 1]. There are N = `num_levels` levels."""
    rho = 7
    largest, smallest = LARGEST ** (1 / rho), SMALLEST ** (1 / rho)
    return (largest + index / (num_levels - 1) * (smallest - largest)) ** rho


def num_levels(step: int, num_steps: int) -> int:
    """Compute the number of noise levels N(k): 21, then 41, then 81.

    Args:
        step: index k of the training step, counted from 0.
        num_steps: total number K of steps.
    """
    segment = math.ceil(num_steps / math.log2(math.ceil(MOST_STEPS / FEWEST_STEPS) + 1))
    return min(FEWEST_STEPS * 2 ** math.ceil(step / segment), MOST_STEPS) + 1


def kept_by_target(step: int, num_steps: int, steepness: float) -> float:
    """Compute the decay mu(k) of the target network.

    Args:
        step: index k of the training step, counted from 0; capped at K.
        num_steps: total number K of steps.
        steepness: rate A with which mu approaches its final value.
    """
    progress = min(step / num_steps, 1.0)
    e = math.sqrt(progress * (MOST_KEPT**2 - LEAST_KEPT**2) + LEAST_KEPT**2)
    c = 2 / (1 + math.exp(-steepness * (e - LEAST_KEPT) / (MOST_KEPT - LEAST_KEPT))) - 1
    return c * MOST_KEPT + (1 - c) * LEAST_KEPT


def nearest_level(t: float, num_levels: int) -> int:
    """Find the index i of the level t_i that is nearest to `t`."""
    return min(range(num_levels), key=lambda index: abs(noise_level(index, num_levels) - t))


def input_scale(t: float) -> float:
    """Compute c_in(t), the factor by which the image input of the network is multiplied."""
    return 1 / math.sqrt(t**2 + DATA_DEVIATION**2)


def network_time(t: float) -> float:
    """Compute 250 ln t, the time input of the network."""
    return 250 * math.log(t)


def represent(network: nn.Module, noisy: Sequence[Tensor], t: Sequence[float]) -> tuple[Tensor, ...]:
    """Compute the features network(c_in(t) x_t, 250 ln t) of several noisy batches in one forward pass.

    Args:
        network: network that maps images `[B, C, H, W]` and times `[B]` to features `[B, D]`.
        noisy: batches x_t, each `[B, C, H, W]`: images in [-1, 1] to which noise has been added.
        t: standard deviation of the noise in each batch.

    Returns:
        Features `[B, D]` of each batch.
    """
    dtype = torch.promote_types(noisy[0].dtype, torch.float32)
    image = torch.cat([input_scale(level) * x for level, x in zip(t, noisy, strict=True)])
    times = [x.new_full(x.shape[:1], network_time(level), dtype=dtype) for level, x in zip(t, noisy, strict=True)]
    return network(image, torch.cat(times)).split([x.shape[0] for x in noisy])


class NoiseConditionedClassifier(nn.Module):
    """Classify noisy images, whose noise level is known, in one forward pass.

    Images are rescaled from [0, 1] to [-1, 1], which turns sigma into t = 2 sigma. The network is conditioned on the
    level nearest to t among the 81 levels of pre-training.

    Args:
        encoder: network that maps images and times `[B]` to features `[B, num_features]`.
        num_features: number D of features of the encoder.
        num_classes: number of classes.
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
        """Compute the logits `[B, num_classes]` of noisy images.

        Args:
            noisy: images in [0, 1] plus noise, without clipping, `[B, C, H, W]`.
            sigma: standard deviation of the noise, in pixel units; None uses the `sigma` of the constructor.
        """
        num_levels = MOST_STEPS + 1
        t = noise_level(nearest_level(2 * (self.sigma if sigma is None else sigma), num_levels), num_levels)
        [feature] = represent(self.encoder, [to_signed(noisy)], [t])
        return self.head(feature)
