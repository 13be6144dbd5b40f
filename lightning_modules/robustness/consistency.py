"""Consistency regularisation for randomised smoothing.

Let g(x) = argmax_c P(f(x + sigma e) = c), e ~ N(0, I), be the smoothed classifier. The certified radii of g are larger
if f makes consistent predictions for noisy copies of an image. Let p_1 ... p_m be the predicted probabilities for m
noisy copies, and p their mean. The loss is

    L = mean_j CE(p_j, y) + lambda mean_j KL(p || p_j) + eta H(p).

With m = 1, the loss consists only of the cross-entropy. This is training with Gaussian noise (Cohen et al., 2019).

Source: Jeong and Shin, Consistency Regularization for Certified Robustness of Smoothed Classifiers, NeurIPS 2020,
arXiv 2006.04062.
"""

from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from datamodules.arguments import at_least, positive
from datamodules.batches import LabelledImageBatch
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.robustness.smoothed_training.consistency_regularization import loss_on_copies
from lightning_modules.robustness.smoothed_training.noisy_copies import AccuracyUnderNoise, noisy_copies
from lightning_modules.training.logging import log_training


class Consistency(AccuracyUnderNoise, MethodModule):
    """Train a base classifier for randomised smoothing.

    The callback `Certification` certifies the smoothed classifier.

    Args:
        network: network that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`.
        num_classes: number of classes, K.
        sigma: standard deviation of the noise in training and certification, in pixel units.
        num_copies: number m of noisy copies per image in a training step; 1 means training with Gaussian noise, without
            the consistency terms.
        consistency_weight: weight lambda of the KL divergence between the mean prediction and the prediction for each
            copy.
        entropy_weight: weight eta of the entropy of the mean prediction.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        sigma: float = 0.25,
        num_copies: int = 2,
        consistency_weight: float = 10.0,
        entropy_weight: float = 0.5,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        positive(sigma=sigma)
        at_least(1, num_copies=num_copies)
        at_least(0, consistency_weight=consistency_weight, entropy_weight=entropy_weight)
        self.network = network
        self.num_classes = num_classes
        self.sigma = sigma
        self.num_copies = num_copies
        self.consistency_weight = consistency_weight
        self.entropy_weight = entropy_weight
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        copies = noisy_copies(batch["image"], self.sigma, self.num_copies)
        logits = self(copies.flatten(end_dim=1)).unflatten(0, copies.shape[:2])
        loss = loss_on_copies(logits, batch["label"], self.consistency_weight, self.entropy_weight)
        return {"loss": log_training(self, batch, loss), "logits": logits[0].detach()}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))
