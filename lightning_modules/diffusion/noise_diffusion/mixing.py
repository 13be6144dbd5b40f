"""Equations of NoiseDiffusion and of the interpolations that it is compared with.

Latents and images are `[B, C, H, W]`, positions lambda are `[L]`, and mixtures `[B, L, C, H, W]`.
"""

import math
from typing import NamedTuple

from torch import Tensor

ALMOST_ONE = 1 - 1e-7
"""The greatest cosine of an angle between latents: parallel ones have none to divide by."""


class Weights(NamedTuple):
    """Weights of a mixture at some positions, `[L]` each."""

    alpha: Tensor
    beta: Tensor
    mu: Tensor
    nu: Tensor


def mixing_weights(position: Tensor, gamma: float, signal: float) -> Weights:
    """Compute alpha, beta, mu and nu.

    Args:
        position: lambda, in [0, 1].
        gamma: weight of the fresh noise, in [0, 1].
        signal: mu + nu.
    """
    first, second = (position * math.pi / 2).cos(), (position * math.pi / 2).sin()
    rest = math.sqrt(1 - gamma**2)
    total = first + second  # alpha / (alpha + beta) has a limit where gamma is 1 and both are 0
    return Weights(rest * first, rest * second, signal * first / total, signal * second / total)


def mixed(weight: Tensor, image: Tensor) -> Tensor:
    """Multiply each image by each weight: `[L]` and `[B, C, H, W]` give `[B, L, C, H, W]`."""
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
    """Mix two latents as NoiseDiffusion does, `[B, L, C, H, W]`.

    Args:
        first_latent: l_A.
        second_latent: l_B.
        first: z_A, what the model takes for a clean image.
        second: z_B.
        noise: e, standard normal, one for all positions.
        position: lambda.
        abar: abar of the level at which images and noise are put in.
        boundary: c, to which latents and mixture are clipped.
        gamma: weight of the noise.
        signal: mu + nu.
    """
    alpha, beta, mu, nu = mixing_weights(position, gamma, signal)
    mixture = mixed(alpha, first_latent.clamp(-boundary, boundary))
    mixture = mixture + mixed(beta, second_latent.clamp(-boundary, boundary))
    mixture = mixture + math.sqrt(abar) * (mixed(mu - alpha, first) + mixed(nu - beta, second))
    return (mixture + gamma * math.sqrt(1 - abar) * noise[:, None]).clamp(-boundary, boundary)


def slerp(first: Tensor, second: Tensor, position: Tensor) -> Tensor:
    """Interpolate spherically, with the angle between each two whole tensors, `[B, L, C, H, W]`.

        sin((1 - lambda) theta) / sin(theta) l_A + sin(lambda theta) / sin(theta) l_B

    It is computed in float64 and given in the type of the latents.
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
    """Interpolate linearly: (1 - lambda) l_A + lambda l_B, `[B, L, C, H, W]`."""
    return mixed(1 - position, first) + mixed(position, second)
