"""Attacks for training the mixing network: projected gradient ascent with random hyperparameters.

Each image is attacked once by an attack of random kind: untargeted, or targeted at the second, third, ... most likely
class of the clean prediction. Within a budget epsilon_i, the attack maximises

    (1 - w) L + w BCE(gamma, 1),   L = -log p_y, or with a target t  L = -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2),

where z are log-probabilities of the mixture. The second term makes the attack decrease gamma and alpha. The attack is
thus directed against the classifiers and the mixing network jointly. Steps use a gradient with momentum:

    w ~ U(0, 0.4),   epsilon_i ~ U(0.4, 1.1) epsilon,   momentum ~ U(0, 0.9),   n ~ chi^2,   step size 5 epsilon_i / n

Source: Bai et al., Improving the Accuracy-Robustness Trade-Off of Classifiers via Adaptive Smoothing, SIAM Journal on
Mathematics of Data Science 2024, arXiv 2301.12554, with the constants of the authors' code. The authors attack each
image by all kinds, and take several optimiser steps on the same images. They mostly use APGD, which adapts its step
size. Here all attacks use projected gradient ascent with a fixed step size.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.interfaces import MixtureOutput
from lightning_modules.robustness.attacks.ascent import (
    Norm,
    log_odds,
    per_image,
    project,
    steepest_ascent,
    without_float16,
)

LEAST_EPSILON, GREATEST_EPSILON = 0.4, 1.1
GREATEST_MOMENTUM = 0.9
GREATEST_GAMMA_WEIGHT = 0.4
STEP_FACTOR = 5.0


def targeted_dlr(log_probability: Tensor, label: Tensor, target: Tensor) -> Tensor:
    """Compute the targeted difference of logits ratio (DLR) loss.

    Args:
        log_probability: log-probabilities `[B, K]`, K >= 4; logits give the same result.
        label: `[B]`.
        target: target classes, `[B]`.

    Returns:
        The loss `[B]`; it is positive if the target is more likely than the label.
    """
    z = log_probability
    top = z.topk(4, dim=1).values
    difference = (z.gather(1, label[:, None]) - z.gather(1, target[:, None]))[:, 0]
    return -difference / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def attack_objective(
    mixed: MixtureOutput, label: Tensor, target: Tensor, targeted: Tensor, gamma_weight: Tensor
) -> Tensor:
    """Compute the objective that an attack maximises, `[B]`.

    Args:
        mixed: output of the mixture at the perturbed images.
        label: `[B]`.
        target: target classes, `[B]`; ignored if not targeted.
        targeted: whether the attack on an image is targeted, `[B]`, bool.
        gamma_weight: w, `[B]`.
    """
    # Cross-entropy as log (1 + e^L) of the log-odds, which stays accurate when p_y rounds to 1.
    loss = F.softplus(log_odds(mixed.log_probability, label))
    if mixed.log_probability.shape[1] >= 4:
        loss = torch.where(targeted, targeted_dlr(mixed.log_probability, label, target), loss)
    missed = F.binary_cross_entropy_with_logits(mixed.gamma, torch.ones_like(mixed.gamma), reduction="none")
    return (1 - gamma_weight) * loss + gamma_weight * missed


def drawn_steps(mean: int, place: Sequence[int]) -> int:
    """Sample a number of steps n ~ chi^2(mean), rounded to an integer of at least 1.

    Args:
        mean: mean of the chi^2 distribution.
        place: seed, epoch and batch; they seed the sampling, so that all ranks get the same number.
    """
    return max(1, round(np.random.default_rng(place).chisquare(mean)))


def ascent(
    mixture: Callable[[Tensor], MixtureOutput],
    image: Tensor,
    objective: Callable[[MixtureOutput], Tensor],
    norm: Norm,
    epsilon: Tensor,
    steps: int,
    momentum: Tensor,
) -> Tensor:
    """Run projected gradient ascent with momentum, from a random start within the budget.

    Args:
        mixture: function that evaluates the mixture at images, independently for each image.
        image: images `[B, C, H, W]`, in [0, 1].
        objective: function that maps the output of the mixture to the objective, `[B]`.
        norm: norm of the budget.
        epsilon: budgets `[B]`, in pixel units.
        steps: number n of steps; the step size is 5 epsilon / n.
        momentum: momentum of the gradient, `[B]`.

    Returns:
        Perturbed images of the last step, `[B, C, H, W]`.
    """
    image, budget, kept = image.detach(), per_image(epsilon, image), per_image(momentum, image)

    def within(perturbed: Tensor) -> Tensor:
        return project(perturbed, image, norm, budget)  # type: ignore[arg-type]  # one budget per image

    perturbed = within(image + budget * (2 * sample_rows_like(torch.rand, image) - 1))
    gradient = torch.zeros_like(image)
    for _ in range(steps):
        with torch.enable_grad():
            perturbed = perturbed.detach().requires_grad_()
            (new,) = torch.autograd.grad(objective(mixture(perturbed)).sum(), perturbed)
        gradient = new + kept * gradient
        perturbed = within(perturbed.detach() + STEP_FACTOR / steps * budget * steepest_ascent(gradient, norm))
    return perturbed


@without_float16()
def randomised_attack(
    mixture: Callable[[Tensor], MixtureOutput],
    image: Tensor,
    label: Tensor,
    norm: Norm,
    epsilon: float,
    steps: int,
    num_targets: int,
) -> Tensor:
    """Attack each image of a batch once, with random hyperparameters.

    Args:
        mixture: function that evaluates the mixture at images, independently for each image.
        image: images `[B, C, H, W]`, in [0, 1].
        label: `[B]`.
        norm: norm of the budget.
        epsilon: nominal budget, in pixel units; the budget of each image is sampled around this value.
        steps: n, number of gradient steps.
        num_targets: number of target classes, starting with the second most likely class of the clean prediction; 0
            means untargeted attacks.

    Returns:
        Perturbed images `[B, C, H, W]`, detached.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * sample_rows(torch.rand, (len(image),), image.device, dtype=image.dtype)

    with torch.no_grad():
        ranked = mixture(image).log_probability.topk(num_targets + 1, dim=1).indices
    kind = sample_rows(partial(torch.randint, num_targets + 1), (len(image),), image.device)
    target = ranked.gather(1, kind[:, None])[:, 0]
    weight = uniform(0, GREATEST_GAMMA_WEIGHT)
    budget = epsilon * uniform(LEAST_EPSILON, GREATEST_EPSILON)
    momentum = uniform(0, GREATEST_MOMENTUM)

    def objective(mixed: MixtureOutput) -> Tensor:
        return attack_objective(mixed, label, target, kind > 0, weight)

    return ascent(mixture, image, objective, norm, budget, steps, momentum)
