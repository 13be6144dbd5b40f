"""Minimal-norm attacks: find the perturbation of smallest Euclidean norm that makes a classifier err.

    min_r ||r||_2   subject to  argmax_k z_k(x + r) != y  and  x + r in [0, 1]

DeepFool linearises the classifier iteratively. Let f_k = z_k - z_y and w_k = grad f_k. The steps

    l = argmin_{k != y} |f_k| / ||w_k||_2,     r <- r + (|f_l| / ||w_l||_2^2) w_l,

are repeated until the predicted class of x + (1 + eta) r differs from y. The overshoot eta moves the point across the
boundary. Here f_k and w_k are evaluated at x + (1 + eta) r, so that a step does not lead back across the boundary. The
paper evaluates f_k and w_k at x + r.

Carlini and Wagner set x' = (tanh w + 1) / 2, and use Adam to minimise over w the objective

    ||x' - x||_2^2 + c max(z_y(x') - max_{k != y} z_k(x'), -kappa).

They also search for the smallest c with which the attack succeeds: c is multiplied by ten until the attack succeeds,
and then found by bisection.

Images that are already misclassified are left unchanged. In this file, a network maps images `[B, C, H, W]` in [0, 1]
to logits `[B, K]`. The network must be in evaluation mode, so that it processes each image independently.

Sources: Moosavi-Dezfooli, Fawzi and Frossard, DeepFool: A Simple and Accurate Method to Fool Deep Neural Networks, CVPR
2016, arXiv 1511.04599, algorithm 2; Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, IEEE S&P
2017, arXiv 1608.04644, sections V and VI.A.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.arguments import at_least, within
from datamodules.pixel_ranges import to_signed, to_unit
from lightning_modules.full_precision import at_least_float32
from lightning_modules.robustness.attacks.ascent import Network, check_name, per_image, steepest_ascent
from lightning_modules.training.evaluation_mode import evaluating

INSIDE = 1 - 1e-6
"""Factor by which pixels at the ends of the range, 0 and 1, are moved into its interior, where atanh is finite."""


def errs(logits: Tensor, label: Tensor) -> Tensor:
    """Check whether the predicted class differs from the label, `[B]`, bool.

    An image whose logits are NaN counts as correctly classified.
    """
    return (logits.argmax(dim=1) != label) & ~logits.isnan().any(dim=1)


def gradient_of(value: Tensor, image: Tensor, attack: str, retain_graph: bool = False) -> Tensor:
    """Compute the gradients `[B, C, H, W]` of one value per image, `[B]`, with respect to the images.

    The gradients of the parameters are not computed.

    Raises:
        ValueError: if the value is not differentiable with respect to the image.
    """
    gradient = None
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(value.sum(), image, retain_graph=retain_graph, allow_unused=True)
    if gradient is None:
        raise ValueError(f"the network's logits have no gradient with respect to the image: {attack} needs one")
    return gradient


def shortest_step(network: Network, perturbed: Tensor, label: Tensor, others: Tensor) -> Tensor:
    """Compute the step to the nearest decision boundary of the linearised classifier.

    Pixels at 0 or 1 that would leave [0, 1] are not changed. Otherwise, the clipping after the step would weaken the
    step.

    Args:
        network: network that maps images to logits.
        perturbed: `[B, C, H, W]`, in [0, 1].
        label: y, `[B]`, int64.
        others: candidate classes k != y of each image, `[B, n]`, int64.

    Returns:
        The step (|f_l| / ||w_l||_2^2) w_l of DeepFool, `[B, C, H, W]`. It is zero if all gradients vanish. The
        computation takes n backward passes, one per candidate class, but stores only one gradient at a time.
    """
    with torch.enable_grad():
        perturbed = perturbed.detach().requires_grad_()
        logits = at_least_float32(network(perturbed))
        f = logits.gather(1, others) - logits.gather(1, label[:, None])
    step, nearest = torch.zeros_like(perturbed), torch.full_like(f[:, 0], math.inf).detach()
    for k in range(others.shape[1]):
        w = gradient_of(f[:, k], perturbed, "DeepFool", retain_graph=k + 1 < others.shape[1])
        leaves = ((perturbed <= 0) & (w < 0)) | ((perturbed >= 1) & (w > 0))
        w = torch.where(leaves, 0.0, w).detach()
        direction = steepest_ascent(w, "l2")
        distance = f[:, k].detach().abs() / (w * direction).flatten(1).sum(dim=1)
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        step = torch.where(per_image(closer, step), per_image(distance, step) * direction, step)
    return step.detach()


class CarliniWagnerObjective(NamedTuple):
    """Terms of the objective of Carlini and Wagner."""

    image: Tensor
    """x', `[B, C, H, W]`, in [0, 1]."""
    distance: Tensor
    """||x' - x||_2^2, `[B]`."""
    success: Tensor
    """Whether some other class has a logit at least kappa larger than the logit of the label, `[B]`, bool."""
    gradient: Tensor
    """Gradient of the objective with respect to w, `[B, C, H, W]`."""


def carlini_wagner_objective(
    network: Network, w: Tensor, image: Tensor, label: Tensor, constant: Tensor, confidence: float
) -> CarliniWagnerObjective:
    """Compute ||x' - x||_2^2 + c max(z_y(x') - max_{k != y} z_k(x'), -kappa) at x' = (tanh w + 1) / 2.

    Args:
        network: network that maps images to logits.
        w: `[B, C, H, W]`.
        image: x, `[B, C, H, W]`.
        label: y, `[B]`, int64.
        constant: c, `[B]`.
        confidence: kappa.
    """
    tanh = w.tanh()
    with torch.enable_grad():
        perturbed = to_unit(tanh).requires_grad_()
        logits = at_least_float32(network(perturbed))
        other = logits.scatter(1, label[:, None], -math.inf).amax(dim=1)
        margin = logits.gather(1, label[:, None])[:, 0] - other
        gradient = gradient_of(constant * margin.clamp(min=-confidence), perturbed, "Carlini and Wagner's")
    perturbed = perturbed.detach()
    difference = perturbed - image
    return CarliniWagnerObjective(
        perturbed,
        difference.square().flatten(1).sum(dim=1),
        errs(logits.detach(), label) & (margin.detach() <= -confidence),
        (2 * difference + gradient) * (1 - tanh.square()) / 2,
    )


class MinimalAttack(ABC):
    """Base class of attacks without a budget."""

    name: str

    @property
    def title(self) -> str:
        """Name in tables and metrics."""
        return self.name

    def __call__(
        self, network: Network, image: Tensor, label: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Attack images as `perturb` does, with the network in evaluation mode; the generator is not used."""
        with evaluating(network):
            return self.perturb(network, image, label)

    @abstractmethod
    def perturb(self, network: Network, image: Tensor, label: Tensor) -> Tensor:
        """Attack images `[B, C, H, W]` in [0, 1] with labels `[B]`.

        The attack is deterministic.
        """


@dataclass(frozen=True)
class DeepFool(MinimalAttack):
    """DeepFool attack: iterative steps to the nearest boundary of the linearised classifier.

    Images are clipped to [0, 1] after each step. Each step needs a host synchronisation to find the images that are
    already misclassified. If the attack fails, the last iterate is returned.

    Args:
        overshoot: fraction eta by which the perturbation is extended; the authors use 0.02.
        steps: maximum number of steps.
        num_candidates: number of candidate classes. The candidates are the most likely classes of the image other than
            the label. None uses all classes other than the label. Each candidate class costs one backward pass per
            step.
        name: name in tables and metrics.

    Examples:
        >>> from lightning_modules.networks.mlp import MLP
        >>> network, images = MLP(64, [8], 10), torch.full((4, 1, 8, 8), 0.5)
        >>> labels, attack = network(images).argmax(dim=1), DeepFool(steps=10)
        >>> attack(network, images, labels).shape
        torch.Size([4, 1, 8, 8])
    """

    overshoot: float = 0.02
    steps: int = 50
    num_candidates: int | None = None
    name: str = "deepfool"

    def __post_init__(self) -> None:
        check_name(self.name)
        within(0, math.inf, "[)", overshoot=self.overshoot)
        at_least(1, steps=self.steps, num_candidates=self.num_candidates)

    def perturb(self, network: Network, image: Tensor, label: Tensor) -> Tensor:
        image, perturbed = image.detach(), image.detach().clone()
        with torch.no_grad():
            logits = at_least_float32(network(image))
            left = (~errs(logits, label)).nonzero()[:, 0]
            rest = logits.scatter(1, label[:, None], -math.inf)
            most = logits.shape[1] - 1
            others = rest.topk(most if self.num_candidates is None else min(self.num_candidates, most), dim=1).indices
        for _ in range(self.steps):
            if len(left) == 0:
                break
            step = shortest_step(network, perturbed[left], label[left], others[left])
            # r excludes the part that clipping removed. Otherwise, a later step in the opposite direction could have no
            # effect.
            moved = (perturbed[left] + (1 + self.overshoot) * step).clamp(0, 1)
            perturbed[left] = moved
            with torch.no_grad():
                left = left[~errs(network(moved), label[left])]
        return perturbed


@dataclass(frozen=True)
class CarliniWagner(MinimalAttack):
    """The l2 attack by Carlini and Wagner, with a separate c for each image.

    The attack jointly minimises the norm of the perturbation and the margin of the label. The result is the successful
    x' with the smallest distance to the image over all steps; if no step succeeded, it is the image itself.

    It takes `steps` x `search_steps` forward and backward passes. Unlike the authors' program, it never stops a search
    early, and therefore needs no host synchronisation during the search.

    Args:
        confidence: margin kappa >= 0 by which the logit of a wrong class must exceed the logit of the label.
        steps: number of Adam steps per value of c, the weight of the margin.
        learning_rate: learning rate of Adam.
        initial_constant: first value of c in the search.
        search_steps: number of values of c that the search tries.
        name: name in tables and metrics.

    Examples:
        >>> from lightning_modules.networks.mlp import MLP
        >>> network, images = MLP(64, [8], 10), torch.full((4, 1, 8, 8), 0.5)
        >>> labels, attack = network(images).argmax(dim=1), CarliniWagner(steps=5, search_steps=2, initial_constant=1.0)
        >>> attack(network, images, labels).shape
        torch.Size([4, 1, 8, 8])
    """

    confidence: float = 0.0
    steps: int = 1000
    learning_rate: float = 0.01
    initial_constant: float = 0.001
    search_steps: int = 9
    name: str = "carlini_wagner"

    def __post_init__(self) -> None:
        check_name(self.name)
        within(0, math.inf, "[)", confidence=self.confidence)
        at_least(1, steps=self.steps, search_steps=self.search_steps)
        within(0, math.inf, "()", learning_rate=self.learning_rate, initial_constant=self.initial_constant)

    def perturb(self, network: Network, image: Tensor, label: Tensor) -> Tensor:
        image, result = image.detach(), image.detach().clone()
        with torch.no_grad():
            left = (~errs(network(image), label)).nonzero()[:, 0]
        if len(left) == 0:
            return result
        x, y = image[left], label[left]
        start = torch.atanh(to_signed(x) * INSIDE)
        c = torch.full(
            (len(x),), self.initial_constant, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device
        )
        lower, upper = torch.zeros_like(c), torch.full_like(c, math.inf)
        best, best_distance = x.clone(), torch.full_like(c, math.inf)
        for _ in range(self.search_steps):
            w = start.clone()
            optimizer = torch.optim.Adam([w], lr=self.learning_rate)
            succeeded = torch.zeros(len(x), dtype=torch.bool, device=x.device)
            for _ in range(self.steps):
                here = carlini_wagner_objective(network, w, x, y, c, self.confidence)
                succeeded |= here.success
                closer = here.success & (here.distance < best_distance)
                best = torch.where(per_image(closer, x), here.image, best)
                best_distance = torch.where(closer, here.distance, best_distance)
                w.grad = here.gradient
                optimizer.step()
            lower, upper = torch.where(succeeded, lower, c), torch.where(succeeded, c, upper)
            c = torch.where(upper < math.inf, (lower + upper) / 2, 10 * c)
        result[left] = best
        return result
