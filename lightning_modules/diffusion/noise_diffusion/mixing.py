"""Equations of NoiseDiffusion and of its baselines: spherical (slerp) and linear interpolation (lerp).

Latents and images have the shape `[B, C, H, W]`, positions lambda have the shape `[L]`, and mixtures have the shape
`[B, L, C, H, W]`.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from datamodules.arguments import one_of, positive, within

ALMOST_ONE = 1 - 1e-7
"""Upper bound of the cosine between latents. For parallel latents, this bound avoids a division by sin(0)."""


@dataclass(frozen=True)
class MixingSettings:
    """Coefficients with which NoiseDiffusion mixes two latents with their images and with noise.

    Args:
        boundary: c, bound of the interval [-c, c] to which latents and mixtures are clipped, in standard deviations of
            the noise.
        gamma: weight of new noise, in [0, 1].
        signal: mu + nu, sum of the weights of the two images z_A and z_B.
        injection: noise level at which the two images are added. `encoded` is the noise level of the latents, and
            `next` is the level after one more step towards noise, as in the authors' code.
    """

    boundary: float = 2.0
    gamma: float = 0.0
    signal: float = 1.2
    injection: Literal["next", "encoded"] = "next"

    def __post_init__(self) -> None:
        one_of(("next", "encoded"), injection=self.injection)
        positive(boundary=self.boundary)
        within(0, 1, gamma=self.gamma)


class MixingWeights(NamedTuple):
    """Mixture weights at L positions, each `[L]`."""

    alpha: Tensor
    beta: Tensor
    mu: Tensor
    nu: Tensor


def mixing_weights(position: Tensor, gamma: float, signal: float) -> MixingWeights:
    """Compute the weights alpha, beta, mu and nu.

    Args:
        position: lambda, in [0, 1].
        gamma: weight of the noise, in [0, 1].
        signal: mu + nu, sum of the weights of the two images z_A and z_B.
    """
    first, second = (position * math.pi / 2).cos(), (position * math.pi / 2).sin()
    rest = math.sqrt(1 - gamma**2)
    total = first + second  # without the factor `rest`, which is 0 if gamma is 1
    return MixingWeights(rest * first, rest * second, signal * first / total, signal * second / total)


def weight_images(weight: Tensor, image: Tensor) -> Tensor:
    """Multiply each of B images, `[B, C, H, W]`, by each of L weights, `[L]`; the result is `[B, L, C, H, W]`."""
    return weight.to(image).view(1, -1, 1, 1, 1) * image[:, None]


def corrected_mixture(
    first_latent: Tensor,
    second_latent: Tensor,
    first: Tensor,
    second: Tensor,
    noise: Tensor,
    position: Tensor,
    abar: float,
    boundary: float,
    gamma: float,
    signal: float,
) -> Tensor:
    """Mix two latents with NoiseDiffusion; the result is `[B, L, C, H, W]`.

    Args:
        first_latent: l_A, latent of the first image.
        second_latent: l_B, latent of the second image.
        first: z_A, first image, in the model's representation of images: autoencoder latents or pixels.
        second: z_B, second image, in the same representation.
        noise: e, standard normal noise, which all positions share.
        position: lambda, in [0, 1].
        abar: abar of the noise level at which images and noise are added.
        boundary: c, bound of the interval [-c, c] to which latents and mixtures are clipped.
        gamma: weight of the noise.
        signal: mu + nu, sum of the weights of the two images z_A and z_B.
    """
    alpha, beta, mu, nu = mixing_weights(position, gamma, signal)
    mixture = weight_images(alpha, first_latent.clamp(-boundary, boundary))
    mixture = mixture + weight_images(beta, second_latent.clamp(-boundary, boundary))
    mixture = mixture + math.sqrt(abar) * (weight_images(mu - alpha, first) + weight_images(nu - beta, second))
    return (mixture + gamma * math.sqrt(1 - abar) * noise[:, None]).clamp(-boundary, boundary)


def slerp(first: Tensor, second: Tensor, position: Tensor) -> Tensor:
    """Interpolate spherically between the latents of a pair; theta is the angle between the flattened latents:

        sin((1 - lambda) theta) / sin(theta) l_A + sin(lambda theta) / sin(theta) l_B

    The interpolation is computed in float64, and returned in the dtype of the latents. The result is `[B, L, C, H, W]`.
    """
    a, b = first.double(), second.double()
    norms = a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1)
    cosine = (a * b).flatten(1).sum(dim=1) / norms.clamp(min=1e-300)
    theta = cosine.clamp(-ALMOST_ONE, ALMOST_ONE).acos()[:, None]
    position = position.to(a)[None]
    weights = (((1 - position) * theta).sin() / theta.sin(), (position * theta).sin() / theta.sin())
    mixture = sum(w.view(*w.shape, 1, 1, 1) * x[:, None] for w, x in zip(weights, (a, b), strict=True))
    assert isinstance(mixture, Tensor)
    return mixture.to(first.dtype)


def lerp(first: Tensor, second: Tensor, position: Tensor) -> Tensor:
    """Interpolate linearly by (1 - lambda) l_A + lambda l_B; the result is `[B, L, C, H, W]`."""
    return weight_images(1 - position, first) + weight_images(position, second)
