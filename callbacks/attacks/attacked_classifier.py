"""Wrap a classifier for attacks. The classifier is deterministic, or is smoothed by Gaussian noise."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_modules.interfaces import AttackableMixture, MixtureOutput, SmoothedClassifier
from lightning_modules.robustness.attacks.ascent import PGD, Attack
from lightning_modules.robustness.attacks.auto_attack import AutoAttack, with_fixed_draws
from lightning_modules.robustness.certificates.votes import GaussianSmoothing
from lightning_modules.robustness.mean_prediction import log_mean_softmax


class Draw(Protocol):
    """A function that runs one forward pass of the classifier, with noise if the classifier is smoothed."""

    def __call__(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map images to the logits `[S, B, K]` of S votes; S is 1 for most classifiers.

        Args:
            image: `[B, C, H, W]`.
            noise: standard normal noise `[B, C, H, W]` for a smoothed classifier. None samples new noise.
        """
        ...


def noisy_classifier(trainer: Trainer, pl_module: LightningModule, sigma: float) -> Draw:
    """Return a function that runs the module in the trainer's precision, on noisy images if `sigma` is positive."""

    def network(image: Tensor) -> Tensor:
        return pl_module(trainer.precision_plugin.convert_input(image))

    if not sigma > 0:
        return lambda image, noise=None: network(image)[None]
    smoothed = pl_module if isinstance(pl_module, SmoothedClassifier) else GaussianSmoothing(network)

    def draw(image: Tensor, noise: Tensor | None = None) -> Tensor:
        return smoothed.smoothed_logits(image, torch.randn_like(image) if noise is None else noise, sigma)

    return draw


def mixture_function(trainer: Trainer, pl_module: LightningModule) -> Callable[[Tensor], MixtureOutput] | None:
    """Return a function that evaluates the module's mixture in the trainer's precision; None if it has no mixture."""
    if not isinstance(pl_module, AttackableMixture):
        return None
    return lambda image: pl_module.evaluated_mixture(trainer.precision_plugin.convert_input(image))


class Predicted(NamedTuple):
    """Predicted classes and, if they come from a single forward pass, the logits."""

    prediction: Tensor
    """`[B]`."""
    logits: Tensor | None
    """`[B, K]`, if the classifier is a single forward pass without noise; otherwise None."""


class AttackedClassifier:
    """A classifier that predicts by majority vote over forward passes, with logits that attacks can differentiate.

    Args:
        draw: function that runs one forward pass of the classifier.
        smoothed: whether the forward passes add noise to images.
        num_draws: number of forward passes per image; their majority vote is the predicted class.
        mixture: function that evaluates the mixture, for attacks whose `of_mixture` is true.
    """

    def __init__(
        self,
        draw: Draw,
        smoothed: bool,
        num_draws: int,
        mixture: Callable[[Tensor], MixtureOutput] | None = None,
    ) -> None:
        self.draw = draw
        self.smoothed = smoothed
        self.num_draws = num_draws
        self.mixture = mixture

    def differentiable_logits(self, image: Tensor) -> Tensor:
        """Map images to logits `[B, K]`, whose gradients the attacks use.

        A majority vote has no gradient. For a smoothed classifier, the logits are therefore the logarithm of the mean
        probabilities.
        """
        logits = self.draw(image)
        return log_mean_softmax(logits) if self.smoothed else logits[0]

    def perturb(self, attack: Attack, image: Tensor, label: Tensor, logits: Tensor | None = None) -> Tensor:
        """Attack images `[B, C, H, W]` with labels `[B]`, using the logits from `predict` if they are given.

        AutoAttack needs a deterministic classifier, so the noise of a smoothed classifier is fixed during AutoAttack.
        With this noise, AutoAttack returns an image unchanged in two cases: the clean image is misclassified, or every
        perturbation that was tried is classified correctly. With new noise, the majority vote may differ. These images
        are therefore attacked again, by projected gradient ascent with new noise.
        """
        if attack.of_mixture:
            network: Any = self.mixture
            return attack.perturb(network, image, label, logits=logits)
        if not (self.smoothed and isinstance(attack, AutoAttack)):
            return attack.perturb(self.differentiable_logits, image, label, logits=logits)
        noise = torch.randn(attack.num_draws, *image.shape[1:], dtype=image.dtype, device=image.device)
        attacked = attack.perturb(with_fixed_draws(self.draw, noise), image, label)
        left = (attacked == image).flatten(1).all(dim=1)
        if left.any():
            ascent = PGD(attack.norm, attack.epsilon, attack.steps, num_draws=attack.num_draws)
            attacked[left] = ascent.perturb(self.differentiable_logits, image[left], label[left])
        return attacked

    def predict(self, image: Tensor, positions: range) -> Predicted:
        """Predict classes by the majority vote of `num_draws` forward passes; the lowest class index wins a tie."""
        votes = torch.zeros((), dtype=torch.int64, device=image.device)
        broken = torch.zeros((), dtype=torch.bool, device=image.device)
        for _ in range(self.num_draws):
            logits = self.draw(image)
            votes = votes + torch.nn.functional.one_hot(logits.argmax(dim=2), logits.shape[2]).sum(dim=0)
            broken = broken | logits.isnan().any()
        if broken:  # one host synchronisation
            raise ValueError(
                f"the network's logits are NaN for images in {positions[0]}...{positions[-1]} of the test set"
            )
        one = not self.smoothed and self.num_draws == 1
        return Predicted(votes.argmax(dim=1), logits[0].detach() if one else None)
