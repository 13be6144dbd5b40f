"""Schedule the noise levels of rRCM and its target network's average during pre-training.

A trajectory of noise is x_t = x + t e with images x in [-1, 1], so that noise of standard deviation sigma on images in
[0, 1] is t = 2 sigma. Its N levels, from large to small, are those of Karras et al. (2022), EDM:

    t_i = (80^{1/7} + i / (N - 1) (0.002^{1/7} - 80^{1/7}))^7,   i = 0 ... N - 1.

In step k of K, with s_0 = 20 and s_1 = 80,

    N(k) = min(s_0 2^{ceil(k / K')}, s_1) + 1,   K' = ceil(K / log2(ceil(s_1 / s_0) + 1)),

and the target network keeps, with e(k) = sqrt(k / K (.9999^2 - .99^2) + .99^2),

    c(k) = 2 / (1 + exp(-A (e(k) - .99) / (.9999 - .99))) - 1,
    mu(k) = .9999 c(k) + .99 (1 - c(k)).

The networks are shown c_in(t) x_t with c_in = 1 / sqrt(t^2 + 1/4), of unit variance, and the time 250 ln t.

The ceil in N(k) is the authors' code's: 21 levels only at k = 0.

Source: Lei et al., Robust Representation Consistency Model via Contrastive Denoising, ICLR 2025, arXiv 2501.13094, with
the numbers of the authors' code; Karras, Aittala, Aila and Laine, Elucidating the Design Space of Diffusion-Based
Generative Models, NeurIPS 2022, arXiv 2206.00364.
"""

import math

LARGEST, SMALLEST = 80.0, 0.002
DATA_DEVIATION = 0.5
FEWEST_STEPS, MOST_STEPS = 20, 80
LEAST_KEPT, MOST_KEPT = 0.99, 0.9999


def noise_level(index: int, num_levels: int) -> float:
    """Compute t_i of N levels, in the units of images in [-1, 1]."""
    rho = 7
    largest, smallest = LARGEST ** (1 / rho), SMALLEST ** (1 / rho)
    return (largest + index / (num_levels - 1) * (smallest - largest)) ** rho


def num_levels(step: int, num_steps: int) -> int:
    """Compute N(k): 21, then 41, then 81 levels.

    Args:
        step: k, number of the step, from 0.
        num_steps: K, number of all steps.
    """
    segment = math.ceil(num_steps / math.log2(math.ceil(MOST_STEPS / FEWEST_STEPS) + 1))
    return min(FEWEST_STEPS * 2 ** math.ceil(step / segment), MOST_STEPS) + 1


def kept_by_target(step: int, num_steps: int, steepness: float) -> float:
    """Compute mu(k), the part of itself that the target network keeps in an update.

    Args:
        step: k, number of the step, from 0; from K on it counts as K.
        num_steps: K, number of all steps.
        steepness: A, which says how soon mu nears its end.
    """
    progress = min(step / num_steps, 1.0)
    e = math.sqrt(progress * (MOST_KEPT**2 - LEAST_KEPT**2) + LEAST_KEPT**2)
    c = 2 / (1 + math.exp(-steepness * (e - LEAST_KEPT) / (MOST_KEPT - LEAST_KEPT))) - 1
    return c * MOST_KEPT + (1 - c) * LEAST_KEPT


def nearest_level(t: float, num_levels: int) -> int:
    """Find the index i whose t_i is nearest to `t`."""
    return min(range(num_levels), key=lambda index: abs(noise_level(index, num_levels) - t))


def input_scale(t: float) -> float:
    """Compute c_in(t), the factor of what the network is shown."""
    return 1 / math.sqrt(t**2 + DATA_DEVIATION**2)


def network_time(t: float) -> float:
    """Compute 250 ln t, the time that the network is told."""
    return 250 * math.log(t)
