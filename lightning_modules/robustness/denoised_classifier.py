"""Denoised smoothing: randomised smoothing of a classifier behind an arbitrary denoiser.

The base classifier is the composition of a classifier f and a denoiser D, neither of which has to be trained for
smoothing. The smoothed classifier is

    g(x) = argmax over classes c of P(f(D(x + n, sigma)) = c), n ~ N(0, sigma^2).

The certified radius sigma Phi^-1(p) of randomised smoothing holds for any base classifier, and therefore also for this
composition.

Source: Salman, Sun, Yang, Kapoor and Kolter, Denoised Smoothing: A Provable Defense for Pretrained Classifiers, NeurIPS
2020, arXiv 2003.01908. The file `denoised_smoothing.py` uses a diffusion model as the denoiser.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import LabelledImageBatch
from lightning_modules.interfaces import Denoiser, Exported, require
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.robustness.certificates.statistics import gaussian_radius
from lightning_modules.robustness.certificates.vote_fractions import exported_votes
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.logging import log_training


class DenoisedClassifier(ClassifierSteps, MethodModule):
    """Classifier behind a trained denoiser, certified by the callback `Certification`.

    `fit` trains only the classifier, with the cross-entropy on clean images. The denoiser is frozen. The test accuracy
    is the accuracy of the classifier on clean images, without the denoiser.

    Args:
        network: classifier that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`.
        denoiser: trained module with a method `denoise(noisy, sigma)`, such as `Noise2Score`.
        num_classes: number of classes, K.
        optimizer: optimizer of the trainable parameters of the classifier.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    certificate = "Cohen et al. 2019, of a classifier behind a denoiser"

    def __init__(
        self,
        network: nn.Module,
        denoiser: nn.Module,
        num_classes: int,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        require(denoiser, Denoiser, "DenoisedClassifier")
        self.network = network
        self.denoiser = denoiser.requires_grad_(False)
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def train(self, mode: bool = True) -> "DenoisedClassifier":
        """Keep the denoiser in evaluation mode."""
        super().train(mode)
        self.denoiser.eval()
        return self

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Add noise to images, denoise them, and compute the classifier's logits `[1, B, K]`."""
        denoiser: Any = self.denoiser
        return self(denoiser.denoise(torch.add(image, noise, alpha=sigma), sigma).to(image.dtype))[None]

    def export_function(self, sigma: float | None = None) -> Exported:
        """Export, as a function, the vote fractions of the smoothed classifier. See `interfaces.Exportable`."""
        if sigma is None:
            raise ValueError("sigma must be given for a classifier behind a denoiser; 0 exports the classifier alone")
        return exported_votes(self, sigma) if sigma else super().export_function()

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        return gaussian_radius(probability[0], sigma)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["image"])
        loss = log_training(self, batch, F.cross_entropy(logits, batch["label"]))
        return {"loss": loss, "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
