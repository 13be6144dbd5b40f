"""LightningModule of adaptive smoothing; the package docstring describes the method."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from datamodules.arguments import at_least
from datamodules.batches import LabelledImageBatch
from datamodules.distributed.collectives import run_seed
from lightning_modules.interfaces import MixtureOutput
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.robustness.adaptive_smoothing.attacks import TrainingAttack, drawn_steps, randomised_attack
from lightning_modules.robustness.adaptive_smoothing.mixing import (
    lipschitz_radius,
    smoothed_lipschitz,
    smoothing_radius,
    tight_smoothing_radius,
)
from lightning_modules.robustness.adaptive_smoothing.mixture import Mixture
from lightning_modules.robustness.attacks.ascent import require_gradients
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.logging import log_training

CERTIFICATES = {
    "published": "Bai et al. 2024, mixture with a smoothed robust classifier",
    "lipschitz": "Bai et al. 2024, mixture with a Lipschitz robust classifier (by smoothing)",
    "tight": "mixture with a smoothed robust classifier, the radius that a half-space attains",
}


def mixing_loss(
    mixed: MixtureOutput, label: Tensor, attacked: Tensor, bce_weight: float, ce_weight: float, product_weight: float
) -> Tensor:
    """Compute the loss L of the mixing network for each image, `[B]`.

    Args:
        mixed: outputs of the mixture for the images.
        label: `[B]`.
        attacked: indicator s, `[B]`: 1 for attacked images, and 0 for clean images.
        bce_weight: weight c_bce of the binary cross-entropy of gamma.
        ce_weight: weight c_ce of the cross-entropy of the mixture.
        product_weight: weight c_prod of the product of the two cross-entropies.
    """
    ce = F.cross_entropy(mixed.log_probability, label, reduction="none")
    bce = F.binary_cross_entropy_with_logits(mixed.gamma, attacked, reduction="none")
    return bce_weight * bce + ce_weight * ce + product_weight * bce * ce


class AdaptiveSmoothing(ClassifierSteps, MethodModule):
    """Train the mixing network of a mixture of two frozen classifiers, and test the mixture.

    A mixture with fixed `alpha` needs no training; run only `test`. Metrics and attacks evaluate the mixture without
    smoothing. The callback `Certification` smooths the robust classifier and certifies the mixture. The attack
    `AdaptiveAttack` attacks the classifiers and the mixing network jointly.

    Args:
        network: the two classifiers and the mixing network.
        num_classes: number of classes, K.
        alpha: weight of the robust classifier in evaluation, in [0, 1]; None keeps the value set in `network`. Training
            does not use this argument.
        attack: attacks in training.
        bce_weight: weight c_bce of the binary cross-entropy of gamma.
        ce_weight: weight c_ce of the cross-entropy of the mixture.
        product_weight: weight c_prod of the product of the two cross-entropies.
        radius: formula of the certified radius: `published` (the smoothing radius), `lipschitz`, or `tight`, which
            gives the largest radius; see `mixing.py`.
        optimizer: optimizer of the trainable parameters of the mixing network.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: Mixture,
        num_classes: int,
        alpha: float | None = None,
        attack: TrainingAttack = TrainingAttack(),  # noqa: B008 - immutable
        bce_weight: float = 1.5,
        ce_weight: float = 0.0,
        product_weight: float = 0.2,
        radius: Literal["published", "lipschitz", "tight"] = "published",
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        if alpha is not None:
            network.choose(alpha)
        if network.alpha is None and network.mixing_network is None:
            raise ValueError("alpha must be given, because network has no mixing_network to predict it")
        at_least(0, bce_weight=bce_weight, ce_weight=ce_weight, product_weight=product_weight)
        most = num_classes - 1 if num_classes >= 4 else 0
        if not 0 <= attack.num_targets <= most:
            raise ValueError(
                f"attack.num_targets must be in 0...{most} with {num_classes} classes, got {attack.num_targets}"
            )
        self.network = network
        self.num_classes = num_classes
        self.least_alpha = network.evaluation.alpha_bias if network.alpha is None else network.alpha
        self.certificate = f"{CERTIFICATES[radius]}, alpha at least {self.least_alpha:g}"
        self.chooses_alpha = network.mixing_network is not None
        self.attack = attack
        self.bce_weight = bce_weight
        self.ce_weight = ce_weight
        self.product_weight = product_weight
        self.radius = radius
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)

    def mix(self, image: Tensor, alpha: float | None = None) -> MixtureOutput:
        """Compute the output of the mixture in evaluation, for images `[B, C, H, W]`; alpha is fixed or predicted."""
        return self.network.mixture_output(image, alpha)

    def evaluated_mixture(self, image: Tensor) -> MixtureOutput:
        """Compute the output of the mixture for images `[B, C, H, W]`, with the same alpha as in `forward`."""
        return self.network.mixture_output(image, self.network.alpha)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.network.mixing_network is None:
            raise ValueError("network has no mixing_network, so there is nothing to train: run `test`")
        super().setup(stage)
        if stage == "fit":
            require_gradients(str(self.trainer.precision), "AdaptiveSmoothing")

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image, label = batch["image"], batch["label"]
        self.network.eval()
        attacked = randomised_attack(
            lambda perturbed: self.network.mix(perturbed, self.network.in_training),
            image,
            label,
            self.attack,
            drawn_steps(self.attack.steps, (run_seed(), self.trainer.current_epoch, batch_idx)),
        )
        self.network.train()
        copies = len(attacked) // len(image)
        mixed = self.network.mix(torch.cat([image.repeat(copies, 1, 1, 1), attacked]), self.network.in_training)
        is_attacked = torch.zeros_like(mixed.gamma)
        is_attacked[len(attacked) :] = 1
        losses = mixing_loss(
            mixed, label.repeat(2 * copies), is_attacked, self.bce_weight, self.ce_weight, self.product_weight
        )
        clean_alpha, attacked_alpha = (alpha.mean() for alpha in mixed.alpha.detach().chunk(2))
        loss = log_training(self, batch, losses.mean(), alpha_clean=clean_alpha, alpha_attacked=attacked_alpha)
        return {"loss": loss, "logits": mixed.log_probability[: len(image)].detach()}

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Compute the logits of the robust classifier under noise, `[1, B, K]`."""
        noisy = torch.add(image, noise, alpha=sigma)
        return self.network.robust_logits(noisy.to(next(self.network.robust.parameters()).dtype))[None]

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        p = probability[0]
        if self.radius == "lipschitz":
            constant = smoothed_lipschitz(sigma)
            return float(lipschitz_radius(p, [1 - p], max(self.least_alpha, 1e-9), constant, constant))
        if self.radius == "tight":
            return float(tight_smoothing_radius(p, self.least_alpha, sigma))
        return float(smoothing_radius(p, 1 - p, self.least_alpha, sigma))

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
