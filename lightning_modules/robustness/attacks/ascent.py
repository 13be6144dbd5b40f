"""Projected gradient ascent (PGD): perturb an image within a budget so that a classifier errs.

    max_d  L(x + d, y)   subject to  ||d||_p <= epsilon  and  x + d in [0, 1],

    L(x, y) = log ((1 - p_y(x)) / p_y(x)) = log sum_{k != y} exp z_k(x) - z_y(x),

where z are the logits, p = softmax(z), and L is the log-odds of an error. The cross-entropy is an increasing function
of L, so that the cross-entropy and L have the same maxima and parallel gradients:

    -log p_y = log (1 + e^L),   grad L = -grad p_y / (p_y (1 - p_y)) = grad(-log p_y) / (1 - p_y).

The steps below do not depend on the length of the gradient. In exact arithmetic, the steps are therefore the same for L
and for the cross-entropy. In float32 and with two classes, p_y rounds to 1 if the logit of the label exceeds the other
logit by 17 or more. In this case, the cross-entropy is 0 and cannot rank two perturbations, and its gradient with
respect to the logit of the label is 0. L does not have these problems.

Projected gradient ascent repeats, with step size a,

    l_inf:  d <- clip(d + a sign(grad L), -epsilon, epsilon)
    l_2:    d <- d' min(1, epsilon / ||d'||_2),   d' = d + a grad L / ||grad L||_2

and clips x + d to [0, 1]. For a randomised classifier, p is the mean of the softmax over m samples (expectation over
transformation). Let L_j be the log-odds of sample j. Then log p_y^j = -log (1 + e^L_j) and log (1 - p_y^j) = -log (1 +
e^-L_j), and L is computed as

    L = log sum_j (1 - p_y^j) - log sum_j p_y^j.

This form avoids cancellation. Its gradient is

    grad L = sum_j c_j grad L_j,   c_j = p_y^j (1 - p_y^j) (1 / sum_i p_y^i + 1 / sum_i (1 - p_y^i)),

which is parallel to -sum_j grad p_y^j. The samples can therefore be processed one at a time, with the memory of a
single sample.

In this file, a network maps images `[B, C, H, W]` in [0, 1] to logits `[B, K]`. The network must be in evaluation mode,
so that the images of a batch do not affect each other.

Sources: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, arXiv 1706.06083;
Athalye et al., Obfuscated Gradients Give a False Sense of Security, ICML 2018, arXiv 1802.00420; Salman et al.,
Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers, NeurIPS 2019, arXiv 1906.04584.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.arguments import at_least, one_of, positive, within
from datamodules.randomness.generators import sample_like, split_generator
from datamodules.randomness.shared_batches import sample_rows_like
from lightning_modules.full_precision import at_least_float32
from lightning_modules.training.evaluation_mode import evaluating

Network = Callable[[Tensor], Tensor]
Norm = Literal["linf", "l2"]
Generators = Sequence[torch.Generator] | None
"""One generator per image, or None for torch's global generator."""


@contextmanager
def without_float16() -> Iterator[None]:
    """Disable float16 autocast for the forward and backward pass.

    In float16, the gradient of a confidently classified image underflows to 0, and an attack could not change the
    image. Scaling the loss, as in training, does not help, because one scale does not fit all images. bfloat16 autocast
    stays enabled, because bfloat16 has the range of float32.
    """
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def require_gradients(precision: str, needed_by: str) -> None:
    """Reject the precision 16-true, in which gradients underflow.

    Args:
        precision: precision of the trainer.
        needed_by: name of the attack class that needs gradients, for the error message.

    Raises:
        ValueError: if `precision` is `16-true`.
    """
    if precision == "16-true":
        raise ValueError(
            f"{needed_by} needs gradients, which underflow to 0 with trainer.precision 16-true: use 16-mixed (attacks "
            f"then run in float32), bf16-true or 32-true"
        )


def check_name(name: str) -> None:
    """Reject a name that cannot be part of a metric or file name.

    Raises:
        ValueError: if the name has characters other than letters, digits, '_', '.' and '-'.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"name must consist of letters, digits, '_', '.' and '-', got {name!r}")


def different_titles(attacks: Sequence["Attack | Any"]) -> list[str]:
    """Return the titles of the attacks, after checking that they differ.

    Raises:
        ValueError: if two attacks have the same title.
    """
    titles = [attack.title for attack in attacks]
    if twice := sorted({title for title in titles if titles.count(title) > 1}):
        raise ValueError(f"attacks must have different names, got {', '.join(twice)} twice: set `name`")
    return titles


def per_image(value: Tensor, image: Tensor) -> Tensor:
    """Reshape `[B]` to broadcast over `[B, C, H, W]`."""
    return value.view(-1, *[1] * (image.ndim - 1))


def size(perturbation: Tensor, norm: Norm) -> Tensor:
    """Compute the norm of each perturbation, `[B]`, in pixel units."""
    order = math.inf if norm == "linf" else 2
    return torch.linalg.vector_norm(perturbation.flatten(1), ord=order, dim=1)


def project_perturbation(perturbed: Tensor, image: Tensor, norm: Norm, epsilon: float | Tensor) -> Tensor:
    """Project perturbed images onto the ball of radius epsilon around each image, then clip to [0, 1].

    Clipping never increases the magnitude of an entry of the perturbation. Therefore, the result stays within the
    budget.

    Args:
        perturbed: `[B, C, H, W]`.
        image: `[B, C, H, W]`, in [0, 1].
        norm: norm of the budget.
        epsilon: budget, in pixel units; pass a tensor `[B, 1, 1, 1]` for one budget per image.
    """
    perturbation = perturbed - image
    if norm == "linf":
        within = perturbation.clamp(-epsilon, epsilon)  # type: ignore[arg-type]  # two numbers or two tensors
    else:
        length = per_image(size(perturbation, norm), image)
        within = perturbation * torch.where(length > epsilon, epsilon / length, 1.0)
    return (image + within).clamp(0, 1)


def steepest_ascent(gradient: Tensor, norm: Norm) -> Tensor:
    """Compute the steepest ascent direction of unit norm: sign(g), or g / ||g||_2.

    Args:
        gradient: gradient g, `[B, C, H, W]`. The direction is zero where the gradient is zero or NaN.
        norm: norm of the direction.
    """
    gradient = gradient.nan_to_num(nan=0.0)
    if norm == "linf":
        return gradient.sign()
    # The squares of a small gradient underflow. The gradient is therefore first rescaled to magnitude 1.
    largest = per_image(size(gradient, "linf"), gradient)
    scaled = gradient / torch.where(largest > 0, largest, 1.0)
    return scaled / per_image(size(scaled, "l2"), gradient).clamp(min=1)


def random_start(image: Tensor, norm: Norm, epsilon: float, generators: Generators = None) -> Tensor:
    """Move images to uniformly random points within the budget, and clip the result to [0, 1].

    Args:
        image: `[B, C, H, W]`.
        norm: norm of the budget.
        epsilon: budget, in pixel units.
        generators: B CPU generators, one per image; None samples with `sample_rows`.
    """

    def drawn(draw: Callable[..., Tensor], like: Tensor) -> Tensor:
        if generators is not None:
            return sample_like(like, draw, generators)
        return sample_rows_like(draw, like)

    if norm == "linf":
        perturbation = (2 * drawn(torch.rand, image) - 1) * epsilon
    else:
        direction = steepest_ascent(drawn(torch.randn, image), "l2")
        radius = epsilon * drawn(torch.rand, image[:, 0, 0, 0]) ** (1 / image[0].numel())
        perturbation = direction * per_image(radius, image)
    return project_perturbation(image + perturbation, image, norm, epsilon)


def log_odds(logits: Tensor, label: Tensor) -> Tensor:
    """Compute the loss L of each image from the logits of one forward pass, in float32 or a higher precision.

    Args:
        logits: logits, `[B, K]`; log-probabilities give the same result.
        label: `[B]`.

    Returns:
        Loss L, `[B]`; it is positive if the probability of the label is below 1/2.
    """
    logits, place = at_least_float32(logits), label[:, None]
    return logits.scatter(1, place, -math.inf).logsumexp(1) - logits.gather(1, place)[:, 0]


def log_odds_of_mean(of_draws: Tensor) -> Tensor:
    """Compute the log-odds L of the mean probability, `[B]`, from the log-odds L_j of m samples, `[m, B]`."""
    return F.logsigmoid(of_draws).logsumexp(0) - F.logsigmoid(-of_draws).logsumexp(0)


def scale_gradients(gradient: Tensor, log_factor: Tensor) -> Tensor:
    """Multiply the gradients of B images, `[B, C, H, W]`, by one factor exp(log_factor) per image."""
    return gradient * per_image(log_factor.exp().to(gradient.dtype), gradient)


class Attacked(NamedTuple):
    """Perturbed images, and whether they fool the classifier."""

    image: Tensor
    """`[B, C, H, W]`, in [0, 1]."""
    loss: Tensor
    """L, `[B]`."""
    fooled: Tensor
    """Whether the predicted class differs from the label, `[B]`, bool."""


def evaluate_attack(image: Tensor, of_draws: Tensor, probability: Tensor, label: Tensor) -> Attacked:
    """Compute the losses of perturbed images, and whether the images fool the classifier.

    An image whose loss is NaN does not count as fooled.

    Args:
        image: `[B, C, H, W]`.
        of_draws: log-odds L_j of m samples, `[m, B]`.
        probability: class probabilities, `[B, K]`, which may all be multiplied by a common factor.
        label: `[B]`.
    """
    loss = log_odds_of_mean(of_draws)
    return Attacked(image, loss, (probability.argmax(dim=1) != label) & ~loss.isnan())


def worse(one: Attacked, other: Attacked) -> Attacked:
    """Select the more harmful of two perturbations of each image.

    If only one perturbation fools the classifier, this perturbation is selected. Otherwise, the perturbation with the
    larger loss is selected.
    """
    take = torch.where(other.fooled == one.fooled, other.loss > one.loss, other.fooled)
    return Attacked(
        torch.where(per_image(take, one.image), other.image, one.image),
        torch.where(take, other.loss, one.loss),
        one.fooled | other.fooled,
    )


@without_float16()
def evaluate_randomised(network: Network, image: Tensor, label: Tensor, num_draws: int) -> Attacked:
    """Evaluate images with several samples of a randomised classifier, one after the other, without gradients.

    Args:
        network: network that maps images to logits; for a randomised network, the logits differ between calls.
        image: `[B, C, H, W]`.
        label: `[B]`.
        num_draws: number m of samples.
    """
    of_draws, probabilities = [], torch.zeros((), device=image.device)
    with torch.no_grad():
        for _ in range(num_draws):
            logits = at_least_float32(network(image))
            of_draws.append(log_odds(logits, label))
            probabilities = probabilities + logits.softmax(1)
    return evaluate_attack(image, torch.stack(of_draws), probabilities, label)


def judged_by(logits: Tensor, image: Tensor, label: Tensor) -> Attacked:
    """Evaluate images whose logits `[B, K]` are already known, without gradients."""
    logits = at_least_float32(logits.detach())
    return evaluate_attack(image, log_odds(logits, label)[None], logits.softmax(1), label)


@without_float16()
def attacked_with_gradient(network: Network, image: Tensor, label: Tensor, num_draws: int) -> tuple[Attacked, Tensor]:
    """Evaluate images, and compute the gradient of each loss with respect to its image, `[B, C, H, W]`.

    The gradients of the parameters are not computed.

    Args:
        network: network that maps images to logits.
        image: `[B, C, H, W]`.
        label: `[B]`.
        num_draws: number m of samples; the graph of a sample is freed before the next sample is evaluated.

    Raises:
        ValueError: if the logits are not differentiable with respect to the image.
    """
    image = image.detach().requires_grad_()
    of_draws, probabilities = [], torch.zeros((), device=image.device)
    total, largest = torch.zeros_like(image), torch.full((len(image),), -math.inf, device=image.device)
    for _ in range(num_draws):
        with torch.enable_grad():
            logits = at_least_float32(network(image))
            of_draw = log_odds(logits, label)
            gradient = None
            if of_draw.requires_grad:
                (gradient,) = torch.autograd.grad(of_draw.sum(), image, allow_unused=True)
        if gradient is None:
            raise ValueError("the network's logits have no gradient with respect to the image: PGD needs one")
        logits, of_draw = logits.detach(), of_draw.detach()
        of_draws.append(of_draw)
        probabilities = probabilities + logits.softmax(1)
        # The weights c_j may underflow. They are therefore stored relative to the largest weight so far.
        log_weight = F.logsigmoid(of_draw) + F.logsigmoid(-of_draw)
        largest, before = torch.maximum(largest, log_weight), largest
        total = scale_gradients(total, before - largest) + scale_gradients(gradient, log_weight - largest)
    of_all = torch.stack(of_draws)
    right, wrong = F.logsigmoid(-of_all).logsumexp(0), F.logsigmoid(of_all).logsumexp(0)
    gradient = scale_gradients(total, largest + torch.logaddexp(-right, -wrong))
    return evaluate_attack(image.detach(), of_all, probabilities, label), gradient


def projected_gradient_ascent(
    network: Network,
    image: Tensor,
    label: Tensor,
    start: Tensor,
    norm: Norm,
    epsilon: float,
    steps: int,
    step_size: float,
    num_draws: int = 1,
) -> Attacked:
    """Run projected gradient ascent once from the points `start`, without host synchronisation.

    Args:
        network: network that maps images to logits.
        image: `[B, C, H, W]`, in [0, 1].
        label: `[B]`, int64.
        start: starting points `[B, C, H, W]`, within the budget and [0, 1].
        norm: norm of the budget.
        epsilon: budget, in pixel units.
        steps: number of gradient steps.
        step_size: step size a in pixel units.
        num_draws: number m of samples per gradient of a randomised classifier.

    Returns:
        Worst point of each image's trajectory. The starting point and the final point are candidates, too, so more
        steps never weaken the attack.
    """
    image, perturbed = image.detach(), start.detach()
    kept: Attacked | None = None
    for _ in range(steps):
        here, gradient = attacked_with_gradient(network, perturbed, label, num_draws)
        kept = here if kept is None else worse(kept, here)
        perturbed = project_perturbation(perturbed + step_size * steepest_ascent(gradient, norm), image, norm, epsilon)
    end = evaluate_randomised(network, perturbed, label, num_draws)
    return end if kept is None else worse(kept, end)


def pgd(
    network: Network,
    image: Tensor,
    label: Tensor,
    norm: Norm,
    epsilon: float,
    steps: int,
    step_size: float,
    restarts: int = 1,
    starts_at_random: bool = True,
    num_draws: int = 1,
    generators: Generators = None,
    logits: Tensor | None = None,
) -> Attacked:
    """Run projected gradient ascent several times, and return the worst point for each image.

    The worst point can be the image itself. The arguments that are not described here are those of
    `projected_gradient_ascent`.

    Args:
        restarts: number of ascents. If `num_draws` is 1, the network is assumed to be deterministic, and images that
            are already misclassified are left out of the next ascents. Selecting the remaining images costs one host
            synchronisation per restart.
        starts_at_random: whether to start at a random point within the budget instead of at the image.
        generators: CPU generators of the random starts, one per image; None uses torch's global generator.
        logits: logits of the unperturbed images, `[B, K]`; passing them saves a forward pass if `num_draws` is 1. None
            computes the logits.
    """
    image = image.detach()
    known = logits is not None and num_draws == 1
    kept = judged_by(logits, image, label) if known else evaluate_randomised(network, image, label, num_draws)  # type: ignore[arg-type]
    for _ in range(restarts):
        start = random_start(image, norm, epsilon, generators) if starts_at_random else image
        left = torch.arange(len(image), device=image.device)
        if num_draws == 1:
            left = left[~kept.fooled]
        if len(left) == 0:
            break
        found = projected_gradient_ascent(
            network, image[left], label[left], start[left], norm, epsilon, steps, step_size, num_draws
        )
        worst = worse(Attacked(*(value[left] for value in kept)), found)
        kept = Attacked(*(old.index_copy(0, left, new) for old, new in zip(kept, worst, strict=True)))
    return kept


class Attack(ABC):
    """Base class of attacks within a budget."""

    of_mixture: ClassVar[bool] = False
    """Whether the network of `perturb` must return a `MixtureOutput` (see `MixedClassifier`) instead of logits."""

    name: str | None
    norm: Norm
    epsilon: float
    steps: int
    restarts: int

    @property
    def title(self) -> str:
        """Name in tables and metrics: `name` if given, otherwise built from class, norm and epsilon."""
        return self.name or f"{type(self).__name__.lower()}_{self.norm}_{self.epsilon:.4g}"

    def settings(self) -> dict[str, Any]:
        """Settings that determine the results of the attack, as JSON values."""
        # Revision 1 maximised the cross-entropy. Its results must not be mixed with the results of maximising the
        # log-odds.
        return {"kind": type(self).__name__, "revision": 2, **asdict(self)}  # type: ignore[call-overload]

    def __call__(
        self, network: Network, image: Tensor, label: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Attack images `[B, C, H, W]` in [0, 1] with labels `[B]`; the network is put into evaluation mode.

        The generator seeds the random numbers of each image; None uses PyTorch's global generator.
        """
        with evaluating(network):
            return self.perturb(network, image, label, split_generator(len(image), generator))

    @abstractmethod
    def perturb(
        self,
        network: Network,
        image: Tensor,
        label: Tensor,
        generators: Generators = None,
        logits: Tensor | None = None,
    ) -> Tensor:
        """Attack images.

        Args:
            network: network that maps images to logits.
            image: `[B, C, H, W]`, in [0, 1].
            label: `[B]`.
            generators: CPU random generators, one per image. With them, the perturbation of an image does not depend on
                the other images in the batch. None uses torch's global generator.
            logits: logits of the unperturbed images, `[B, K]`. If None, they are computed when the attack needs them.
        """

    def check(self) -> None:
        """Validate norm, budget and name.

        Raises:
            ValueError: if norm, budget or name is invalid.
        """
        one_of(("linf", "l2"), norm=self.norm)
        within(0, math.inf, "()", epsilon=self.epsilon)
        if self.name is not None:
            check_name(self.name)


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent (PGD) attack.

    Args:
        norm: norm of the budget, `linf` or `l2`.
        epsilon: budget, in pixel units; 8/255 is 0.03137.
        steps: number of gradient steps.
        step_size: length of a step, in pixel units; None uses 2.5 epsilon / steps. This is long enough for an ascent to
            reach every point of the ball from any starting point.
        restarts: number of ascents. The worst result of all ascents is kept for each image.
        random_start: whether to start at a random point within the budget instead of at the image.
        num_draws: number of samples per gradient of a randomised classifier.
        name: name in tables and metrics; None uses `pgd_<norm>_<epsilon>`.

    Examples:
        >>> from lightning_modules.networks.mlp import MLP
        >>> network, images, labels = MLP(64, [8], 10), torch.full((4, 1, 8, 8), 0.5), torch.arange(4)
        >>> attack = PGD(norm="linf", epsilon=8 / 255, steps=3)
        >>> bool((attack(network, images, labels) - images).abs().max() <= 8 / 255 + 1e-6)
        True
    """

    norm: Norm
    epsilon: float
    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    num_draws: int = 1
    name: str | None = None

    def __post_init__(self) -> None:
        self.check()
        at_least(1, steps=self.steps, restarts=self.restarts, num_draws=self.num_draws)
        positive(step_size=self.step_size)
        if self.restarts > 1 and not self.random_start and self.num_draws == 1:
            raise ValueError(f"restarts {self.restarts} needs random_start: true; without it, all ascents are the same")

    def perturb(
        self,
        network: Network,
        image: Tensor,
        label: Tensor,
        generators: Generators = None,
        logits: Tensor | None = None,
    ) -> Tensor:
        step_size = 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size
        budget = (self.norm, self.epsilon, self.steps, step_size)
        draws = (self.restarts, self.random_start, self.num_draws, generators)
        return pgd(network, image, label, *budget, *draws, logits=logits).image
