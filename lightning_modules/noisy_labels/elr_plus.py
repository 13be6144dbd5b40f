"""ELR+: early-learning regularisation with two networks, weight averaging and mixup.

Each of the networks f_1 and f_2 has a moving average of its weights (e_1, e_2) and targets for the training examples
(t_1, t_2). Let m be the index of the network other than k, l the mixing weight, and j the mixup partner of an example.
For network k,

    t_k <- beta t_k + (1 - beta) softmax(e_m(x)),        q = l t_k + (1 - l) t_k[j],
    L = -(1/B) sum_i <y~_i, log softmax(f_k(x~_i))> + r(n) lambda (1/B) sum_i log(1 - <q_i, p_i>).

Here x~ and y~ are the mixed images and the mixed one-hot labels, and p = softmax(f_k(x~)). The factor r(n) increases
during the first steps; n is the index of the training step. On CIFAR-100, the mixed labels are weighted by the targets:
y~ <- y~ q / <y~, q>. An epoch consists of two passes over the data: the first trains f_1, and the second trains f_2.
The final logits are the mean over both networks.

In the authors' code, the two networks have different label noise and different validation splits, by accident. Here,
both networks use the same dataset.

Source: Liu, Niles-Weed, Razavian and Fernandez-Granda, Early-Learning Regularization Prevents Memorization of Noisy
Labels, NeurIPS 2020, arXiv 2007.00151, appendix F, with the schedules of the authors' code.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, within
from datamodules.batches import LabelledImageBatch
from lightning_modules.distributed.per_sample import PerSample
from lightning_modules.full_precision import at_least_float32
from lightning_modules.interfaces import TrainingSamples, require_data
from lightning_modules.losses.mixing import draw_mixing
from lightning_modules.method_module import MethodModule
from lightning_modules.noisy_labels.co_training import active_network, check_alternation
from lightning_modules.noisy_labels.early_learning_regularization import clamped_softmax, early_learning_term
from lightning_modules.optim.averages import move_average
from lightning_modules.optim.optimizers import constant, optimizer_config, sgd, trainable_parameters
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.logging import log_training


def sigmoid_ramp(step: int, length: int) -> float:
    """Compute the ramp exp(-5 (1 - min(n, length) / length)^2), which rises from e^-5 to 1; 1 if `length` is 0."""
    return math.exp(-5 * (1 - min(step, length) / length) ** 2) if length > 0 else 1.0


def averaging_decay(step: int, decay: float, ramp_steps: int | None) -> float:
    """Compute the decay of the moving average of the network weights in the n-th update.

    Args:
        step: index n of the update, counted from 1.
        decay: maximum decay.
        ramp_steps: number of updates over which the decay increases to its maximum. If None, the decay of update n is
            min(1 - 1/(n + 1), decay), and the average is at first the mean of all weights so far.
    """
    return min(1 - 1 / (step + 1), decay) if ramp_steps is None else sigmoid_ramp(step + 1, ramp_steps) * decay


def weighted_by_target(label: Tensor, target: Tensor) -> Tensor:
    """Multiply soft labels y, `[B, K]`, by targets q, `[B, K]`, and renormalise the product: y q / <y, q>."""
    weighted = label * target
    return weighted / weighted.sum(dim=1, keepdim=True)


class ELRPlus(ClassifierSteps, MethodModule):
    """Train two networks with early-learning regularisation; each network computes the targets of the other network.

    The module needs `data.loading.passes_per_epoch: 2`. Because each step trains only one network, DDP needs the
    strategy `ddp_find_unused_parameters_true`.

    Args:
        network: network f_1 that maps images `[B, C, H, W]` in [0, 1] to logits `[B, num_classes]`.
        second_network: network f_2, with the architecture of f_1 but different initial weights.
        num_classes: number of classes, K.
        strength: weight lambda of the regularisation.
        momentum: momentum beta of the targets, in [0, 1).
        ramp_steps: number of training steps, per network, over which the regularisation increases to its full strength;
            with 0, it has full strength from the start.
        reweight_labels: whether to weight the mixed labels by the targets, as in the paper for CIFAR-100.
        mixup_alpha: parameter alpha of the distribution Beta(alpha, alpha) of mixup weights; 0 disables mixup.
        average_decay: maximum decay of the moving average of the weights, in [0, 1).
        average_ramp_steps: number of steps over which the decay increases to `average_decay`; with None, the average is
            at first the mean of all weights so far.
        optimizer: optimizer of the trainable parameters of both networks.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    passes_per_epoch = 2

    def __init__(
        self,
        network: nn.Module,
        second_network: nn.Module,
        num_classes: int,
        strength: float = 3.0,
        momentum: float = 0.7,
        ramp_steps: int = 0,
        reweight_labels: bool = False,
        mixup_alpha: float = 1.0,
        average_decay: float = 0.997,
        average_ramp_steps: int | None = 40000,
        optimizer: OptimizerCallable = sgd,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        at_least(0, strength=strength, mixup_alpha=mixup_alpha)
        within(0, 1, "[)", momentum=momentum, average_decay=average_decay)
        self.network = network
        self.second_network = second_network
        self.averages = nn.ModuleList(copy.deepcopy(each).requires_grad_(False) for each in (network, second_network))
        self.num_classes = num_classes
        self.strength = strength
        self.momentum = momentum
        self.ramp_steps = ramp_steps
        self.reweight_labels = reweight_labels
        self.mixup_alpha = mixup_alpha
        self.average_decay = average_decay
        self.average_ramp_steps = average_ramp_steps
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)
        self.targets = [PerSample(num_classes), PerSample(num_classes)]
        self.steps = [0, 0]
        self.active = 0

    def forward(self, image: Tensor) -> Tensor:
        return (self.network(image) + self.second_network(image)) / 2

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            check_alternation(self.trainer, self)

    def on_fit_start(self) -> None:
        data = require_data(self.trainer, TrainingSamples, "ELRPlus")
        dtype = torch.promote_types(next(self.network.parameters()).dtype, torch.float32)
        for targets in self.targets:
            targets.allocate(data.num_train_samples, self.device, dtype)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        self.active = active_network(batch_idx, self.trainer.num_training_batches)
        image, label = batch["image"], F.one_hot(batch["label"], self.num_classes)
        mixing = draw_mixing(len(image), self.mixup_alpha)
        with torch.no_grad():
            teacher = at_least_float32(self.averages[1 - self.active](image))
        target = self.targets[self.active].update(
            batch["index"],
            teacher.softmax(dim=1),
            lambda old, new: self.momentum * old + (1 - self.momentum) * new,
            batch.get("global_batch_size"),
        )
        mixed_target, mixed_label = mixing(target), mixing(label)
        if self.reweight_labels:
            mixed_label = weighted_by_target(mixed_label, mixed_target)
        logits = self._networks()[self.active](mixing(image))
        cross_entropy = F.cross_entropy(logits, mixed_label.to(logits.dtype))
        strength = self.strength * sigmoid_ramp(self.steps[self.active] + 1, self.ramp_steps)
        loss = cross_entropy + strength * early_learning_term(clamped_softmax(logits), mixed_target)
        return {"loss": log_training(self, batch, loss), "logits": teacher}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.steps[self.active] += 1
        decay = averaging_decay(self.steps[self.active], self.average_decay, self.average_ramp_steps)
        move_average(self.averages[self.active], self._networks()[self.active], decay)

    def _networks(self) -> tuple[nn.Module, nn.Module]:
        return self.network, self.second_network

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(*self._networks()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["steps"] = list(self.steps)
        checkpoint["targets"] = [targets.gather(copy=False) for targets in self.targets]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps = list(checkpoint["steps"])
        for targets, saved in zip(self.targets, checkpoint["targets"], strict=True):
            targets.restore(saved)
