"""Train a noise-conditional classifier, which classifier guidance requires."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import LabelledImageBatch
from datamodules.pixel_ranges import to_signed
from datamodules.randomness.shared_batches import sample_rows, sample_rows_like
from lightning_modules.diffusion.score_sde.trained_levels import SMALLEST_TIME, TrainedLevels
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adam, constant, optimizer_config, trainable_parameters
from lightning_modules.sde.processes import VE, Process
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.logging import log_training


class NoiseConditionalClassifier(ClassifierSteps, MethodModule):
    """Train a classifier of noisy images that also receives the standard deviation of the noise.

        L = E_{t,x_t} CE(network(x_t, std(t)), y)

    Here CE is the cross-entropy, and y is the label. In validation and test, the network receives clean images and the
    smallest noise level.

    Args:
        network: network that computes logits, `[B, num_classes]`, from x_t, `[B, C, H, W]`, and the standard deviations
            of the noise, `[B]`, such as
            `lightning_modules.networks.noise_conditional_wide_resnet.NoiseConditionalWideResNet`.
        num_classes: number of classes, K.
        process: diffusion process of the score model; images are in [0, 1] for VE, and in [-1, 1] for the other
            processes.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        process: Process,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        self.classifier = network  # not named `network`: callbacks call a classifier's `network` with images only
        self.num_classes = num_classes
        self.levels = TrainedLevels(process)
        self.centred = not isinstance(process, VE)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)

    def _logits(self, image: Tensor, t: Tensor, noise: Tensor | None) -> Tensor:
        mean, deviation = self.levels.kernel(to_signed(image) if self.centred else image, t)
        return self.classifier(mean if noise is None else mean + deviation.view(-1, 1, 1, 1) * noise, deviation)

    def forward(self, image: Tensor) -> Tensor:
        return self._logits(image, image.new_full(image.shape[:1], SMALLEST_TIME), None)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image = batch["image"]
        t = self.levels.times(sample_rows(torch.rand, (len(image),), image.device, dtype=image.dtype))
        logits = self._logits(image, t, sample_rows_like(torch.randn, image))
        loss = log_training(self, batch, F.cross_entropy(logits, batch["label"]))
        return {"loss": loss, "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.classifier))
