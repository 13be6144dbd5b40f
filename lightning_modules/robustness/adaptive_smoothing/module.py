"""Adaptive smoothing: an accurate and a robust classifier, mixed with a weight that is learned for each image.

Both classifiers are given and stay as they are. A mixing network reads their features and gives each image the weight
alpha of the robust one (`mixing.py`, `mixing_network.py`). With gamma the value that alpha is the sigmoid of, s = 1 for
attacked images and 0 for clean ones, and f the mixture, it minimises over clean images and attacks on them

    L = c_bce BCE(gamma, s) + c_ce CE(f, y) + c_prod BCE(gamma, s) CE(f, y).

The attacks (`mixing_attacks.py`) see classifiers and mixing network as one, as an attacker would.

Certified is a mixture whose robust classifier is smoothed: h are its votes under noise, g and alpha are those of the
image itself. The paper's radius for a fixed alpha, sigma Phi^-1(alpha p) if h_y >= p, also holds with the least alpha
that an image can have where it is learned: all that it uses is alpha h_y > 1/2.

Where alpha comes from:

                             set by                                       used
    Mixture.alpha            alpha of `Mixture`, or of the module below   in evaluation, for all images; None asks the
                             through `Mixture.choose`                     mixing network for each image's
    Mixture.evaluation       gamma_scale ... alpha_bias of `Mixture`      in evaluation, for the mixing network's
    (an `AlphaRange`)
    Mixture.in_training      training_gamma_scale, _bias of `Mixture`     in training and the attacks there, whatever
    (an `AlphaRange`)                                                     Mixture.alpha is
    least_alpha              Mixture.alpha; for None alpha_bias           in the certified radius
    mix(image, alpha)        the callback `AlphaCurve`                    in its table

Source: Bai, Anderson, Kim and Sojoudi, Improving the Accuracy-Robustness Trade-Off of Classifiers via Adaptive
Smoothing, SIAM Journal on Mathematics of Data Science 2024, arXiv 2301.12554. The authors attack a batch in ten ways,
and take five optimiser steps on the clean and attacked images; here each step has new images, half of them attacked.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from datamodules.batches import LabelledImageBatch, global_size, share
from lightning_modules.robustness.adaptive_smoothing.attacks import drawn_steps, randomised_attack, run_seed
from lightning_modules.robustness.adaptive_smoothing.mixing import Mixed, smoothing_radius, tight_smoothing_radius
from lightning_modules.robustness.adaptive_smoothing.mixture import Mixture
from lightning_modules.robustness.attacks.ascent import Norm, require_gradients
from lightning_modules.training.classifier import ClassifierSteps, accuracies
from lightning_modules.training.optimizers import adamw, constant

CERTIFICATES = {
    "published": "Bai et al. 2024, mixture with a smoothed robust classifier",
    "tight": "mixture with a smoothed robust classifier, the radius that a half-space attains",
}


def mixing_loss(
    mixed: Mixed, label: Tensor, attacked: Tensor, bce_weight: float, ce_weight: float, product_weight: float
) -> Tensor:
    """L of each image, `[B]`.

    Args:
        mixed: what the mixture makes of the images.
        label: `[B]`.
        attacked: `[B]`: s, 1 for attacked images and 0 for clean ones.
        bce_weight: c_bce.
        ce_weight: c_ce.
        product_weight: c_prod.
    """
    ce = F.cross_entropy(mixed.log_probability, label, reduction="none")
    bce = F.binary_cross_entropy_with_logits(mixed.gamma, attacked, reduction="none")
    return bce_weight * bce + ce_weight * ce + product_weight * bce * ce


class AdaptiveSmoothing(ClassifierSteps, LightningModule):
    """Trains the mixing network of two frozen classifiers, and tests their mixture.

    The mixture at a fixed alpha needs no training: give `alpha` and test. `Certification` certifies the mixture with
    the robust classifier smoothed; testing and attacks evaluate it as it is.

    Args:
        network: the classifiers and the mixing network.
        num_classes: number of classes, K.
        alpha: weight of the robust classifier in evaluation, in [0, 1]; None leaves that of `network`, chosen by its
            mixing network or fixed. Training is the same with either.
        norm: of the attacks in training, `linf` or `l2`.
        epsilon: their budget, in pixel units; 8/255 is 0.03137.
        attack_steps: mean number of their steps, drawn anew for each batch; the authors have 75 for APGD, 20 for PGD.
        num_targets: classes that they target, from the second likeliest on; below the number of classes.
        bce_weight: c_bce.
        ce_weight: c_ce.
        product_weight: c_prod.
        clean_weight: weight of a clean image's loss, where an attacked one's is 1.
        radius: what is certified, the paper's radius or the larger one of `mixing.tight_smoothing_radius`.
        optimizer: built on the mixing network's trainable parameters.
        lr_scheduler: stepped every epoch.

    Raises:
        ValueError: if an argument is out of range, or `alpha` is missing where there is no mixing network.
    """

    def __init__(
        self,
        network: Mixture,
        num_classes: int,
        alpha: float | None = None,
        norm: Norm = "linf",
        epsilon: float = 8 / 255,
        attack_steps: int = 20,
        num_targets: int = 9,
        bce_weight: float = 1.5,
        ce_weight: float = 0.0,
        product_weight: float = 0.2,
        clean_weight: float = 1.0,
        radius: Literal["published", "tight"] = "published",
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        if alpha is not None:
            network.choose(alpha)
        if network.alpha is None and network.mixing_network is None:
            raise ValueError("alpha must be given: network has no mixing_network that chooses it")
        if norm not in ("linf", "l2"):
            raise ValueError(f"norm must be linf or l2, got {norm!r}")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        if attack_steps < 1:
            raise ValueError(f"attack_steps must be at least 1, got {attack_steps}")
        if not 0 <= num_targets < num_classes or (num_targets and num_classes < 4):
            raise ValueError(
                f"num_targets must be in 0...{num_classes - 1 if num_classes >= 4 else 0} with {num_classes} classes, "
                f"got {num_targets}"
            )
        for key, value in {
            "bce_weight": bce_weight,
            "ce_weight": ce_weight,
            "product_weight": product_weight,
            "clean_weight": clean_weight,
        }.items():
            if value < 0:
                raise ValueError(f"{key} must be at least 0, got {value}")
        self.network = network
        self.num_classes = num_classes
        self.least_alpha = network.evaluation.alpha_bias if network.alpha is None else network.alpha
        self.certificate = f"{CERTIFICATES[radius]}, alpha at least {self.least_alpha:g}"
        self.chooses_alpha = network.mixing_network is not None
        self.norm: Norm = norm
        self.epsilon = epsilon
        self.attack_steps = attack_steps
        self.num_targets = num_targets
        self.bce_weight = bce_weight
        self.ce_weight = ce_weight
        self.product_weight = product_weight
        self.clean_weight = clean_weight
        self.radius = radius
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)

    def mix(self, image: Tensor, alpha: float | None = None) -> Mixed:
        """The mixture of images `[B, C, H, W]` as in evaluation, with a given alpha or the mixing network's."""
        return self.network.mixed(image, alpha)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.network.mixing_network is None:
            raise ValueError("network has no mixing_network, so there is nothing to train: run `test`")
        if stage == "fit":
            require_gradients(str(self.trainer.precision), "AdaptiveSmoothing")

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image, label = batch["image"], batch["label"]
        self.network.eval()
        attacked = randomised_attack(
            lambda perturbed: self.network.mix(perturbed, self.network.in_training),
            image,
            label,
            self.norm,
            self.epsilon,
            drawn_steps(self.attack_steps, (run_seed(), self.trainer.current_epoch, batch_idx)),
            self.num_targets,
        )
        self.network.train()
        mixed = self.network.mix(torch.cat([image, attacked]), self.network.in_training)
        is_attacked = torch.cat(
            [torch.zeros_like(mixed.gamma[: len(image)]), torch.ones_like(mixed.gamma[: len(image)])]
        )
        losses = mixing_loss(mixed, label.repeat(2), is_attacked, self.bce_weight, self.ce_weight, self.product_weight)
        weight = is_attacked + self.clean_weight * (1 - is_attacked)
        loss = share(batch) * (weight * losses).mean()
        clean_alpha, attacked_alpha = mixed.alpha.detach().chunk(2)
        logged = {
            "train/loss": loss.detach(),
            "train/alpha_clean": share(batch) * clean_alpha.mean(),
            "train/alpha_attacked": share(batch) * attacked_alpha.mean(),
        }
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=global_size(batch), sync_dist=True)
        return {"loss": loss, "logits": mixed.log_probability[: len(image)].detach()}

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Votes of the robust classifier, `[1, B, K]`."""
        noisy = torch.add(image, noise, alpha=sigma)
        return self.network.robust_logits(noisy.to(next(self.network.robust.parameters()).dtype))[None]

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        p = probability[0]
        if self.radius == "tight":
            return float(tight_smoothing_radius(p, self.least_alpha, sigma))
        return float(smoothing_radius(p, 1 - p, self.least_alpha, sigma))

    def configure_optimizers(self):
        optimizer = self.optimizer(filter(lambda parameter: parameter.requires_grad, self.network.parameters()))
        return [optimizer], [self.lr_scheduler(optimizer)]
