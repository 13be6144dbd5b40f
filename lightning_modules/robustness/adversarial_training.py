"""Adversarial training: train a classifier on attacked images.

    min_theta  E  max_d  L_theta(x + d, y)   subject to  ||d||_p <= epsilon  and  x + d in [0, 1]

Projected gradient ascent, with the network in evaluation mode, approximates the inner maximum.

Source: Madry, Makelov, Schmidt, Tsipras and Vladu, Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR
2018, arXiv 1706.06083.
"""

from typing import Any

import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, positive
from datamodules.batches import LabelledImageBatch
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import constant, optimizer_config, sgd, trainable_parameters
from lightning_modules.robustness.attacks.ascent import Norm, projected_gradient_ascent, random_start, require_gradients
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.logging import log_training


class AdversarialTraining(ClassifierSteps, MethodModule):
    """Train a classifier on attacked images.

    In `test`, the callback `RobustAccuracy` attacks the classifier.

    Args:
        network: network that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`.
        num_classes: number of classes, K.
        norm: norm of the attacks, `linf` or `l2`.
        epsilon: budget of the attacks, in pixel units; 8/255 is 0.03137.
        steps: number of gradient steps per attack. The attack returns the worst point of its trajectory.
        step_size: length of a step, in pixel units; None uses 2.5 epsilon / steps.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        norm: Norm = "linf",
        epsilon: float = 8 / 255,
        steps: int = 7,
        step_size: float | None = None,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        one_of(("linf", "l2"), norm=norm)
        positive(epsilon=epsilon, step_size=step_size)
        at_least(1, steps=steps)
        self.network = network
        self.num_classes = num_classes
        self.norm: Norm = norm
        self.epsilon = epsilon
        self.steps = steps
        self.step_size = 2.5 * epsilon / steps if step_size is None else step_size
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            require_gradients(str(self.trainer.precision), "AdversarialTraining")

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        image, label = batch["image"], batch["label"]
        self.network.eval()
        start = random_start(image, self.norm, self.epsilon)
        attacked = projected_gradient_ascent(
            self.network, image, label, start, self.norm, self.epsilon, self.steps, self.step_size
        ).image
        self.network.train()
        return {"loss": log_training(self, batch, F.cross_entropy(self(attacked), label))}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
