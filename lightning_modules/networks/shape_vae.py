"""A variational autoencoder of masks: a model of the shapes that a structure can have.

    q(u | z) = N(mu(z), diag exp(logvar(z))),      r(u): the logits of a mask,
    loss = BCE(r(u), z), summed over pixels, + beta KL(q || N(0, I)),      u = mu + exp(logvar / 2) eps.

The encoder has four convolutions of stride 2 and a linear map; the decoder mirrors the encoder.

Source: Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014, arXiv 1312.6114.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.randomness.shared_batches import sample_rows_like


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Compute KL(N(mean, diag exp(log_variance)) || N(0, I)), in nats, for each row of `[B, L]`; returns `[B]`."""
    return 0.5 * (mean.square() + log_variance.expm1() - log_variance).sum(dim=1)


def reconstruction_error(logits: Tensor, mask: Tensor) -> Tensor:
    """Compute each mask's cross-entropy under logits, summed over pixels, in nats.

    Masks are `[B, 1, H, W]` in [0, 1]; the result is `[B]`.
    """
    return F.binary_cross_entropy_with_logits(logits, mask, reduction="none").flatten(start_dim=1).sum(dim=1)


class ShapeVAE(nn.Module):
    """Encode masks `[B, 1, S, S]` in [0, 1] as `num_latents` numbers, and decode them.

    Args:
        image_size: S, height and width of a mask; a multiple of 16.
        num_latents: number of latent variables, L.
        widths: channels after each of the four downsamplings.
    """

    def __init__(self, image_size: int, num_latents: int = 32, widths: Sequence[int] = (16, 32, 64, 64)) -> None:
        super().__init__()
        widths = list(widths)
        if image_size < 16 or image_size % 16:
            raise ValueError(f"image_size must be a multiple of 16, got {image_size}")
        if num_latents < 1:
            raise ValueError(f"num_latents must be at least 1, got {num_latents}")
        if len(widths) != 4 or min(widths) < 1:
            raise ValueError(f"widths must be four positive numbers, got {widths}")
        least = image_size // 16
        down: list[nn.Module] = []
        for before, after in pairwise([1, *widths]):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        up: list[nn.Module] = []
        for before, after in pairwise([*reversed(widths), 1]):
            up += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        values = widths[-1] * least**2
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(values, 2 * num_latents))
        self.decoder = nn.Sequential(
            nn.Linear(num_latents, values), nn.ReLU(), nn.Unflatten(1, (widths[-1], least, least)), *up[:-1]
        )
        self.num_latents = num_latents

    def encode(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior's mean mu and log-variance logvar, both `[B, L]`."""
        mean, log_variance = self.encoder(mask).chunk(2, dim=1)
        return mean, log_variance

    def forward(self, mask: Tensor) -> Tensor:
        """Encode masks z, and decode the posterior means to logits r(mu(z)), `[B, 1, S, S]`."""
        return self.decoder(self.encode(mask)[0])

    def negative_elbo(self, mask: Tensor, beta: float = 1.0, noise: Tensor | None = None) -> Tensor:
        """Compute each mask's loss: the reconstruction error plus beta times the KL divergence.

        Args:
            mask: `[B, 1, S, S]`, in [0, 1].
            beta: weight of the KL divergence.
            noise: standard normal noise eps, `[B, L]`; None samples new noise.

        Returns:
            `[B]`, in nats.
        """
        mean, log_variance = self.encode(mask)
        noise = sample_rows_like(torch.randn, mean) if noise is None else noise
        logits = self.decoder(mean + (log_variance / 2).exp() * noise)
        return reconstruction_error(logits, mask) + beta * kl_to_standard_normal(mean, log_variance)
