"""The LightningModule of N:M sparse training."""

import math
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.batches import LabelledImageBatch, LabelledTextBatch, network_input
from lightning_modules.backbones.replacement import effective_weights, layers_of_functions
from lightning_modules.efficiency.nm_sparsity.flow import Flow, NMWeight, Pattern, sparsify
from lightning_modules.efficiency.nm_sparsity.measures import (
    GIGA,
    ForwardCost,
    densities,
    forward_cost,
    mean_second_moment,
)
from lightning_modules.losses.mixing import SoftLabels
from lightning_modules.method_module import MethodModule
from lightning_modules.optim.optimizers import adamw, constant, optimizer_config, trainable_parameters
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies, cross_entropy_step, refuse_smoothed
from lightning_modules.training.logging import log_same


class NMSparsity(ClassifierSteps, MethodModule):
    """Train any network with cross-entropy, while the weights of some layers become N:M sparse.

    Args:
        network: network that maps images `[B, C, H, W]` in [0, 1], or tokenised texts, to logits `[B, num_classes]`.
        num_classes: number of classes, K.
        pattern: N:M pattern of the sparse layers.
        layers: name patterns of the linear layers and convolutions that become sparse; `*` matches any characters, and
            `?` matches one character.
        flow: how the layers become sparse.
        view: augmentation of training images on the device, such as `views.TimmRandAugment`; None disables the
            augmentation.
        soft_labels: settings for mixing images and labels, and for label smoothing; None disables both. If images are
            mixed, callbacks do not receive logits of training images.
        binary: whether to use the binary cross-entropy of each class; all classes that are mixed in an image then have
            the target 1.
        optimizer: optimizer of the network's trainable parameters.
        lr_scheduler: learning-rate schedule, stepped every epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        pattern: Pattern,
        layers: list[str],
        flow: Flow,
        view: nn.Module | None = None,
        soft_labels: SoftLabels | None = None,
        binary: bool = False,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        refuse_smoothed(soft_labels, binary)
        self.network = network
        self.num_classes = num_classes
        self.functions: list[NMWeight] = sparsify(network, pattern, layers, flow)
        self.flow = flow
        self.view = view
        self.soft_labels = soft_labels
        self.binary = binary
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.metrics = accuracies(num_classes)
        self._cost: ForwardCost | None = None

    def forward(self, inputs: Any) -> Tensor:
        return self.network(inputs)

    def on_fit_start(self) -> None:
        if getattr(self.trainer, "fast_dev_run", False):  # a fast_dev_run has only one epoch
            return
        epochs = self.trainer.max_epochs or -1
        flow = self.flow
        if epochs <= flow.dense_epochs + flow.fine_tune_epochs:
            raise ValueError(
                f"trainer.max_epochs must be above the sum of flow.dense_epochs {flow.dense_epochs} and "
                f"flow.fine_tune_epochs {flow.fine_tune_epochs}, got {self.trainer.max_epochs}"
            )

    @property
    def _length(self) -> tuple[int, float]:
        """The total number of epochs, and the number of optimizer steps per epoch."""
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        return self.trainer.max_epochs or 0, steps

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if self._cost is None:
            self._cost = forward_cost(self.network, network_input(batch))
        self.flow.place(self.trainer.global_step, self.trainer.current_epoch, *self._length, self.functions)

    def training_step(self, batch: LabelledImageBatch | LabelledTextBatch, batch_idx: int) -> dict[str, Tensor]:
        viewed = batch if self.view is None else {**batch, "image": self.view(network_input(batch))}
        return cross_entropy_step(self, viewed, self.soft_labels, self.binary)

    def on_train_epoch_end(self) -> None:
        assert self._cost is not None
        costs = [
            self._cost.training(*densities(self.network, self.flow, epoch, *self._length)) / GIGA
            for epoch in range(self.trainer.current_epoch + 1)
        ]
        log_same(self, "train/gigaflops", costs[-1])
        log_same(self, "train/gigaflops_so_far", sum(costs))
        optimizer: Any = self.optimizers()
        layers = layers_of_functions(self.network).values()
        moment = mean_second_moment(optimizer, [layer.weight for layer in layers])
        if moment is not None:
            log_same(self, "train/second_moment", moment)

    def configure_optimizers(self) -> Any:
        return optimizer_config(self.optimizer, self.lr_scheduler, trainable_parameters(self.network))

    def effective_weights(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the sparse weights and, by layer, the patterns; names are those of the original network."""
        return effective_weights(self.network)
