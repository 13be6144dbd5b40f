"""Attacks on a mixture: projected gradient ascent with random hyperparameters for training, and an evaluation attack.

There are several kinds of attack. One kind is untargeted. Each of the others is targeted: its target is the second,
third, ... most likely class of the prediction for the clean image. In training, each image is attacked either by one
kind chosen at random, or by all kinds. Within a budget epsilon_i, the attack maximises

    (1 - w) L + w BCE(gamma, 1),   L = -log p_y, or with a target t  L = -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2),

where z are log-probabilities of the mixture. The second term makes the attack decrease gamma, and thus alpha, so that
the classifiers and the mixing network are attacked jointly. The gradient steps use momentum. The hyperparameters of
each image are sampled, and the number of steps n is sampled once per batch:

    w ~ U(0, 0.4),   epsilon_i ~ U(0.4, 1.1) epsilon,   momentum ~ U(0, 0.9),   n ~ chi^2,   step size 5 epsilon_i / n

APGD (Auto-PGD) adapts its step size; its only hyperparameter is the number of steps N. Let z_k be the projected result
of a gradient step of size eta from x_k. Then

    x_{k+1} = P(x_k + 0.75 (z_k - x_k) + 0.25 (x_k - x_{k-1})),   eta = 2 epsilon_i at first.

APGD checks each image for the first time after 0.22 N steps. The following intervals between two checks are 0.19 N,
0.16 N, ... steps, but at least 0.06 N steps. A check halves eta if the objective rose in at most 75 % of the steps
since the last check. It also halves eta if the best objective has not improved since the last check, provided that the
last check did not halve eta. After eta is halved, the attack on this image continues from the best point found so far.
The result is the best point of each image.

Sources: Bai et al., Improving the Accuracy-Robustness Trade-Off of Classifiers via Adaptive Smoothing, SIAM Journal on
Mathematics of Data Science 2024, arXiv 2301.12554, with the constants of the authors' code. The authors run APGD with
all kinds of attack on each image, and take several optimiser steps on the same images. Croce and Hein, Reliable
Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks, ICML 2020, arXiv 2003.01690,
for APGD.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import at_least, one_of, positive
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.interfaces import MixtureOutput
from lightning_modules.robustness.attacks.ascent import (
    Attack,
    Attacked,
    Generators,
    Norm,
    judged_by,
    log_odds,
    per_image,
    project_perturbation,
    random_start,
    steepest_ascent,
    without_float16,
    worse,
)

LEAST_EPSILON, GREATEST_EPSILON = 0.4, 1.1
GREATEST_MOMENTUM = 0.9
GREATEST_GAMMA_WEIGHT = 0.4
STEP_FACTOR = 5.0
INERTIA = 0.75
LEAST_RISES = 0.75


def targeted_dlr(log_probability: Tensor, label: Tensor, target: Tensor) -> Tensor:
    """Compute the targeted difference of logits ratio (DLR) loss.

    Args:
        log_probability: log-probabilities `[B, K]`, K >= 4; logits give the same result.
        label: `[B]`.
        target: target classes, `[B]`.

    Returns:
        Loss `[B]`; it is positive if the target is more likely than the label.
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
        target: target classes, `[B]`; ignored for images whose attack is not targeted.
        targeted: whether the attack on each image is targeted, `[B]`, bool.
        gamma_weight: weight w of the second term of the objective, which depends on gamma, `[B]`.
    """
    # The cross-entropy is computed from the log-odds L as log (1 + e^L), which stays accurate when p_y rounds to 1.
    loss = F.softplus(log_odds(mixed.log_probability, label))
    if mixed.log_probability.shape[1] >= 4:
        loss = torch.where(targeted, targeted_dlr(mixed.log_probability, label, target), loss)
    gamma_weight = torch.where(mixed.gamma.isfinite(), gamma_weight, 0.0)  # a fixed alpha of 0 or 1 cannot be attacked
    gamma = torch.where(mixed.gamma.isfinite(), mixed.gamma, 0.0)
    missed = F.binary_cross_entropy_with_logits(gamma, torch.ones_like(gamma), reduction="none")
    return (1 - gamma_weight) * loss + gamma_weight * missed


def drawn_steps(mean: int, place: Sequence[int]) -> int:
    """Sample the number of attack steps from chi^2(mean), and round it to an integer that is at least 1.

    Args:
        mean: mean of the chi^2 distribution.
        place: run seed, epoch and batch index. They seed the random generator, so that all ranks sample the same
            number.
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
        mixture: function that evaluates the mixture for a batch of images, so that the images do not influence each
            other.
        image: images `[B, C, H, W]`, in [0, 1].
        objective: function that maps the mixture's output to the values to maximise, `[B]`.
        norm: norm of the budget.
        epsilon: budgets `[B]`, in pixel units.
        steps: number n of steps; the step size is 5 epsilon / n.
        momentum: momentum factors of the gradient, `[B]`.

    Returns:
        Perturbed images after the last step, `[B, C, H, W]`.
    """
    image, budget, kept = image.detach(), per_image(epsilon, image), per_image(momentum, image)

    perturbed = project_perturbation(
        image + budget * (2 * sample_rows_like(torch.rand, image) - 1), image, norm, budget
    )
    gradient = torch.zeros_like(image)
    for _ in range(steps):
        with torch.enable_grad():
            perturbed = perturbed.detach().requires_grad_()
            (new,) = torch.autograd.grad(objective(mixture(perturbed)).sum(), perturbed)
        gradient = new + kept * gradient
        step = STEP_FACTOR / steps * budget * steepest_ascent(gradient, norm)
        perturbed = project_perturbation(perturbed.detach() + step, image, norm, budget)
    return perturbed


def checkpoints(steps: int) -> list[int]:
    """List the numbers of steps after which APGD checks whether the step size must be halved."""
    interval, least, decrease = (max(int(part * steps), 1) for part in (0.22, 0.06, 0.03))
    found: list[int] = []
    while (found[-1] if found else 0) + interval <= steps:
        found.append((found[-1] if found else 0) + interval)
        interval = max(interval - decrease, least)
    return found


def adaptive_ascent(
    mixture: Callable[[Tensor], MixtureOutput],
    image: Tensor,
    objective: Callable[[MixtureOutput], Tensor],
    norm: Norm,
    epsilon: Tensor,
    steps: int,
    start: Tensor,
) -> Tensor:
    """Run APGD as described in the module docstring, without host synchronisation.

    The first five arguments are those of `ascent`.

    Args:
        steps: number N of steps.
        start: starting points `[B, C, H, W]`, within the budget and [0, 1].

    Returns:
        Best point found for each image, `[B, C, H, W]`, detached.
    """
    image, budget = image.detach(), per_image(epsilon, image)

    def evaluated(point: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            point = point.detach().requires_grad_()
            value = objective(mixture(point))
            (gradient,) = torch.autograd.grad(value.sum(), point)
        return value.detach(), gradient

    def chosen(which: Tensor, new: Tensor, old: Tensor) -> Tensor:
        return torch.where(per_image(which, new), new, old)

    here = before = best = start.detach()
    value, gradient = evaluated(here)
    best_value, best_gradient, earlier_best = value, gradient, value
    step_size, halved, rises = 2 * budget, torch.ones_like(value, dtype=torch.bool), torch.zeros_like(value)
    at, last = set(checkpoints(steps)), 0
    for number in range(steps):
        inertia = INERTIA if number else 1.0
        target = project_perturbation(here + step_size * steepest_ascent(gradient, norm), image, norm, budget)
        point = here + inertia * (target - here) + (1 - inertia) * (here - before)
        here, before = project_perturbation(point, image, norm, budget), here
        new, gradient = evaluated(here)
        rises, value = rises + (new > value), new
        better = value > best_value
        best, best_gradient = chosen(better, here, best), chosen(better, gradient, best_gradient)
        best_value = torch.where(better, value, best_value)
        if number + 1 in at:
            halved = (rises <= LEAST_RISES * (number + 1 - last)) | (~halved & (best_value <= earlier_best))
            step_size = torch.where(per_image(halved, image), step_size / 2, step_size)
            here, gradient = chosen(halved, best, here), chosen(halved, best_gradient, gradient)
            rises, earlier_best, last = torch.zeros_like(rises), best_value, number + 1
    return best


@dataclass(frozen=True)
class TrainingAttack:
    """Attacks on the images of a training step.

    Args:
        algorithm: algorithm of the attacks. `pgd` has a fixed step size; `apgd` halves the step size of an image when
            the attack on this image stops improving.
        norm: norm of the budget, `linf` or `l2`.
        epsilon: nominal budget, in pixel units; 8/255 is 0.03137. The budget of each image is this value times a random
            factor.
        steps: mean number of steps; the actual number is sampled for each batch. The authors use 75 steps for APGD and
            20 steps for PGD.
        num_targets: number of target classes, from the second most likely class of the clean prediction on; 0 means
            that all attacks are untargeted. It must be less than the number of classes.
        every_kind: if true, each image is attacked by the untargeted attack and by a targeted attack for each target
            class, and the clean images are repeated to match the number of attacked images. If false, each image is
            attacked once, by a random kind of attack.
    """

    algorithm: Literal["pgd", "apgd"] = "pgd"
    norm: Norm = "linf"
    epsilon: float = 8 / 255
    steps: int = 20
    num_targets: int = 9
    every_kind: bool = False

    def __post_init__(self) -> None:
        one_of(("pgd", "apgd"), algorithm=self.algorithm)
        one_of(("linf", "l2"), norm=self.norm)
        positive(epsilon=self.epsilon)
        at_least(1, steps=self.steps)


@without_float16()
def randomised_attack(
    mixture: Callable[[Tensor], MixtureOutput], image: Tensor, label: Tensor, attack: TrainingAttack, steps: int
) -> Tensor:
    """Attack each image of a batch, with random hyperparameters.

    Args:
        mixture: function that evaluates the mixture for a batch of images, so that the images do not influence each
            other.
        image: images `[B, C, H, W]`, in [0, 1].
        label: `[B]`.
        attack: settings of the attacks. Only `pgd` uses the sampled momentum.
        steps: number n of gradient steps, which replaces `attack.steps`.

    Returns:
        Perturbed images `[B, C, H, W]`, detached. With `every_kind`, the shape is `[(num_targets + 1) B, C, H, W]`: the
        whole batch attacked by the first kind, then by the second kind, and so on.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * sample_rows(torch.rand, (len(image),), image.device, dtype=image.dtype)

    norm, num_targets = attack.norm, attack.num_targets
    with torch.no_grad():
        ranked = mixture(image).log_probability.topk(num_targets + 1, dim=1).indices
    if attack.every_kind:
        kind = torch.arange(num_targets + 1, device=image.device).repeat_interleave(len(image))
        image, label = image.repeat(num_targets + 1, 1, 1, 1), label.repeat(num_targets + 1)
        ranked = ranked.repeat(num_targets + 1, 1)
    else:
        kind = sample_rows(partial(torch.randint, num_targets + 1), (len(image),), image.device)
    target = ranked.gather(1, kind[:, None])[:, 0]
    weight = uniform(0, GREATEST_GAMMA_WEIGHT)
    budget = attack.epsilon * uniform(LEAST_EPSILON, GREATEST_EPSILON)
    momentum = uniform(0, GREATEST_MOMENTUM)

    def objective(mixed: MixtureOutput) -> Tensor:
        return attack_objective(mixed, label, target, kind > 0, weight)

    if attack.algorithm == "pgd":
        return ascent(mixture, image, objective, norm, budget, steps, momentum)
    start = image + per_image(budget, image) * (2 * sample_rows_like(torch.rand, image) - 1)
    start = project_perturbation(start, image, norm, per_image(budget, image))
    return adaptive_ascent(mixture, image, objective, norm, budget, steps, start)


@dataclass(frozen=True)
class AdaptiveAttack(Attack):
    """APGD that attacks all parts of a mixture jointly: both classifiers and the mixing network.

    For each weight w in `gamma_weights`, APGD runs once without a target, and once for each target class. Each run
    attacks only those images that no earlier run has fooled. A run has fooled an image if any point that the run
    evaluated for this image is misclassified.

    Args:
        norm: norm of the budget, `linf` or `l2`.
        epsilon: budget, in pixel units; 8/255 is 0.03137.
        steps: number of steps of each run.
        gamma_weights: weights w of the term that decreases alpha, in [0, 1).
        num_targets: number of target classes, starting with the second most likely class of the clean prediction. If
            there are fewer other classes, all of them are targets. With fewer than four classes, there are no targeted
            attacks.
        name: name in tables and metrics; None uses `adaptiveattack_<norm>_<epsilon>`.
    """

    of_mixture = True

    norm: Norm
    epsilon: float
    steps: int = 100
    gamma_weights: tuple[float, ...] = (0.0, 0.2, 0.4)
    num_targets: int = 9
    name: str | None = None
    restarts = 1

    def __post_init__(self) -> None:
        self.check()
        at_least(1, steps=self.steps)
        at_least(0, num_targets=self.num_targets)
        if not self.gamma_weights or not all(0 <= weight < 1 for weight in self.gamma_weights):
            raise ValueError(f"gamma_weights must be one or more numbers in [0, 1), got {list(self.gamma_weights)}")

    @without_float16()
    def perturb(  # type: ignore[override]  # the network returns the output of the mixture, see `of_mixture`
        self,
        network: Callable[[Tensor], MixtureOutput],
        image: Tensor,
        label: Tensor,
        generators: Generators = None,
        logits: Tensor | None = None,
    ) -> Tensor:
        with torch.no_grad():
            log_probability = network(image).log_probability
        kept = judged_by(log_probability, image, label)
        num_classes = log_probability.shape[1]
        ranked = log_probability.argsort(dim=1, descending=True)
        num_targets = min(self.num_targets, num_classes - 1) if num_classes >= 4 else 0
        for weight, kind in itertools.product(self.gamma_weights, range(num_targets + 1)):
            start = random_start(image, self.norm, self.epsilon, generators)
            left = (~kept.fooled).nonzero()[:, 0]  # one host synchronisation per run
            if len(left) == 0:
                break
            found = self._run(network, image[left], label[left], start[left], ranked[left, kind], kind > 0, weight)
            worst = worse(Attacked(*(value[left] for value in kept)), found)
            kept = Attacked(*(old.index_copy(0, left, new) for old, new in zip(kept, worst, strict=True)))
        return kept.image

    def _run(
        self,
        network: Callable[[Tensor], MixtureOutput],
        image: Tensor,
        label: Tensor,
        start: Tensor,
        target: Tensor,
        is_targeted: bool,
        weight: float,
    ) -> Attacked:
        """Run APGD once. For each image, return the evaluated point that is worst for the mixture."""
        kept: list[Attacked] = []
        targeted = torch.full_like(label, is_targeted, dtype=torch.bool)
        weights = torch.full(label.shape, weight, device=image.device, dtype=image.dtype)

        def watched(point: Tensor) -> MixtureOutput:
            mixed = network(point)
            here = judged_by(mixed.log_probability, point.detach(), label)
            kept[:] = [worse(kept[0], here) if kept else here]
            return mixed

        def objective(mixed: MixtureOutput) -> Tensor:
            return attack_objective(mixed, label, target, targeted, weights)

        epsilon = torch.full(label.shape, self.epsilon, device=image.device, dtype=image.dtype)
        adaptive_ascent(watched, image, objective, self.norm, epsilon, self.steps, start)
        return kept[0]
