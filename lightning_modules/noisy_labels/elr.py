"""Early-learning regularisation (ELR), which prevents a classifier from memorising false labels.

A network that is trained with the cross-entropy on noisy labels first learns the correct pattern, and later memorises
the false labels. For each training example, ELR stores a running average t of the network's predictions p, and
regularises p towards t:

    t_i <- beta t_i + (1 - beta) p_i,        L = CE(z, y) + lambda (1/B) sum_i log(1 - <t_i, p_i>).

The gradient of the second term with respect to the logits is lambda p_c (<t, p> - t_c) / (1 - <t, p>). For clean
examples, it prevents the total gradient from vanishing; for falsely labelled examples, it cancels the gradient of the
cross-entropy. The target t is initialised to zero and has no bias correction. The effect of the second term therefore
increases gradually.

Source: Liu, Niles-Weed, Razavian and Fernandez-Granda, Early-Learning Regularization Prevents Memorization of Noisy
Labels, NeurIPS 2020, arXiv 2007.00151. The module implements equations 7 and 9, and clamps probabilities as in the
authors' code.
"""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, within
from datamodules.batches import LabelledImageBatch
from lightning_modules.distributed.per_sample import PerSample
from lightning_modules.interfaces import TrainingSamples, require_data
from lightning_modules.method_module import MethodModule
from lightning_modules.noisy_labels.early_learning_regularization import clamped_softmax, early_learning_term
from lightning_modules.optim.optimizers import constant, optimizer_config, sgd, trainable_parameters
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.logging import log_training


def updated_target(target: Tensor, probability: Tensor, momentum: float) -> Tensor:
    """Update the running averages of the predictions for training examples: t <- beta t + (1 - beta) p.

    Args:
        target: targets t, `[B, K]`.
        probability: clamped predictions p, `[B, K]`; the function renormalises their rows to sum to one.
        momentum: momentum beta of the targets, in [0, 1).

    Returns:
        Updated targets `[B, K]`. After k updates, each row sums to 1 - beta^k.
    """
    return momentum * target + (1 - momentum) * probability / probability.sum(dim=1, keepdim=True)


class ELR(ClassifierSteps, MethodModule):
    """Train a classifier on noisy labels with early-learning regularisation.

    The method stores K target values for each training example. They are sharded over ranks (see `PerSample`).

    Args:
        network: network that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`.
        num_classes: number of classes, K.
        strength: weight lambda of the regularisation.
        momentum: momentum beta of the targets, in [0, 1). With 0, the target is the current prediction.
        half_precision_targets: whether to store the targets in float16. This halves their memory, which is useful for
            datasets as large as ImageNet.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        strength: float = 3.0,
        momentum: float = 0.7,
        half_precision_targets: bool = False,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(0, strength=strength)
        within(0, 1, "[)", momentum=momentum)
        self.network = network
        self.num_classes = num_classes
        self.strength = strength
        self.momentum = momentum
        self.target_dtype = torch.float16 if half_precision_targets else None
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)
        self.targets = PerSample(num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def on_fit_start(self) -> None:
        data = require_data(self.trainer, TrainingSamples, "ELR")
        dtype = self.target_dtype or torch.promote_types(next(self.network.parameters()).dtype, torch.float32)
        self.targets.allocate(data.num_train_samples, self.device, dtype)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["image"])
        probability = clamped_softmax(logits)
        target = self.targets.update(
            batch["index"],
            probability.detach(),
            lambda old, new: updated_target(old, new, self.momentum),
            batch.get("global_batch_size"),
        )
        cross_entropy = F.cross_entropy(logits, batch["label"])
        loss = cross_entropy + self.strength * early_learning_term(probability, target)
        return {"loss": log_training(self, batch, loss), "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["targets"] = self.targets.gather(copy=False)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.targets.restore(checkpoint["targets"])
