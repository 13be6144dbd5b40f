"""A classifier that is attacked, as it is or smoothed by Gaussian noise."""

from typing import NamedTuple, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_modules.interfaces import SmoothedClassifier
from lightning_modules.robustness.attacks.ascent import PGD, Attack
from lightning_modules.robustness.attacks.auto_attack import AutoAttack, with_fixed_draws
from lightning_modules.robustness.certificates.votes import GaussianSmoothing
from lightning_modules.robustness.mean_prediction import log_mean_softmax


class Draw(Protocol):
    """One evaluation of the classifier."""

    def __call__(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Maps images to the logits `[S, B, K]` of S votes, of which most classifiers have one.

        Args:
            image: `[B, C, H, W]`.
            noise: `[B, C, H, W]`, standard normal, for a smoothed classifier; None draws it.
        """
        ...


def drawn(trainer: Trainer, pl_module: LightningModule, sigma: float) -> Draw:
    """Give one evaluation of a module in the trainer's precision, under noise where `sigma` is positive."""

    def network(image: Tensor) -> Tensor:
        return pl_module(trainer.precision_plugin.convert_input(image))

    if not sigma > 0:
        return lambda image, noise=None: network(image)[None]
    smoothed = pl_module if isinstance(pl_module, SmoothedClassifier) else GaussianSmoothing(network)

    def draw(image: Tensor, noise: Tensor | None = None) -> Tensor:
        return smoothed.smoothed_logits(image, torch.randn_like(image) if noise is None else noise, sigma)

    return draw


class Predicted(NamedTuple):
    """The classes of images, and what they were predicted by."""

    prediction: Tensor
    """`[B]`."""
    logits: Tensor | None
    """`[B, K]`, where that is one evaluation, which attacks differentiate, too."""


class AttackedClassifier:
    """A classifier by votes, and what attacks see of it.

    Args:
        draw: one evaluation.
        smoothed: whether evaluations are under noise.
        num_draws: evaluations of each image whose votes decide its class.
    """

    def __init__(self, draw: Draw, smoothed: bool, num_draws: int) -> None:
        self.draw = draw
        self.smoothed = smoothed
        self.num_draws = num_draws

    def differentiated(self, image: Tensor) -> Tensor:
        """Map images to the logits `[B, K]` that attacks differentiate.

        Votes have no gradient, so of several votes they are those of the mean of their probabilities.
        """
        logits = self.draw(image)
        return log_mean_softmax(logits) if self.smoothed else logits[0]

    def perturb(self, attack: Attack, image: Tensor, label: Tensor, logits: Tensor | None = None) -> Tensor:
        """Attack images `[B, C, H, W]` with labels `[B]`, of which `predict` has given the logits, or has none.

        Only a deterministic classifier has AutoAttack. It returns an image as it was where fixed draws err on the
        image itself, or on no point that it tried. Votes may say otherwise of both, so these images are attacked by
        projected gradient ascent with new draws.
        """
        if not (self.smoothed and isinstance(attack, AutoAttack)):
            return attack.perturb(self.differentiated, image, label, logits=logits)
        noise = torch.randn(attack.num_draws, *image.shape[1:], dtype=image.dtype, device=image.device)
        attacked = attack.perturb(with_fixed_draws(self.draw, noise), image, label)
        left = (attacked == image).flatten(1).all(dim=1)
        if left.any():
            ascent = PGD(attack.norm, attack.epsilon, attack.steps, num_draws=attack.num_draws)
            attacked[left] = ascent.perturb(self.differentiated, image[left], label[left])
        return attacked

    def predict(self, image: Tensor, positions: range) -> Predicted:
        """Find the class of most votes in `num_draws` evaluations; ties go to the lowest.

        Raises:
            ValueError: if logits are NaN; names the positions of the images.
        """
        votes = torch.zeros((), dtype=torch.int64, device=image.device)
        broken = torch.zeros((), dtype=torch.bool, device=image.device)
        for _ in range(self.num_draws):
            logits = self.draw(image)
            votes = votes + torch.nn.functional.one_hot(logits.argmax(dim=2), logits.shape[2]).sum(dim=0)
            broken = broken | logits.isnan().any()
        if broken:  # the host looks once
            raise ValueError(
                f"the network's logits are NaN for images in {positions[0]}...{positions[-1]} of the test set"
            )
        one = not self.smoothed and self.num_draws == 1
        return Predicted(votes.argmax(dim=1), logits[0].detach() if one else None)
