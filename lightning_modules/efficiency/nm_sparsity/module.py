"""The LightningModule of N:M sparse training."""

import math
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules.arguments import at_least, one_of, only_with, positive
from datamodules.batches import LabelledImageBatch, LabelledTextBatch, network_input
from lightning_modules.backbones.replacement import effective_weights, layers_of_functions
from lightning_modules.efficiency.nm_sparsity.flow import AXES, WAYS, Along, Flow, NMWeight, Way, sparsify
from lightning_modules.efficiency.nm_sparsity.masks import GRADIENTS, Gradient
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
        n: number N of weights that are kept in each group of M, in 1...M.
        m: number M of consecutive weights in a group; the length of the axis must be divisible by M.
        layers: name patterns of the linear layers and convolutions that become sparse; `*` matches any characters, and
            `?` matches one character.
        own: dictionary that maps name patterns of layers to a pair `[n, m]`, which these layers use instead of `n` and
            `m`. The suffix `/q`, `/k` or `/v` selects the query, key or value rows of a fused `qkv` of timm, as in
            `*.qkv/v`.
        along: direction along which weights are consecutive: `inputs` (input channels) or `outputs` (output channels).
            `unstructured` keeps the largest fraction N/M of the weights of each layer, regardless of their positions.
        way: way in which layers become sparse. With ste and sr_ste, layers are sparse from the start. With mdgf_linear
            and mdgf_exponential, pruned weights decay. With sdgf_stepwise and sdgf_geometric, the patterns become
            sparser. With sdgf_densifying, the first patterns are sparser than N:M.
        decay_rate: decay rate beta or eta of MDGF, per optimizer step.
        gradient: gradient of pruned weights, `ste` or `masked`.
        geometric_frames: number of patterns for sdgf_geometric and sdgf_densifying.
        dense_epochs: number of epochs before pruning starts.
        fine_tune_epochs: number of epochs at the end of training in which the mask is binary and the pattern is N:M.
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
        n: int,
        m: int,
        layers: list[str],
        own: dict[str, list[int]] | None = None,
        along: Along = "inputs",
        way: Way = "mdgf_exponential",
        decay_rate: float | None = None,
        gradient: Gradient = "ste",
        geometric_frames: int = 4,
        dense_epochs: int = 0,
        fine_tune_epochs: int = 0,
        view: nn.Module | None = None,
        soft_labels: SoftLabels | None = None,
        binary: bool = False,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable = constant,
    ) -> None:
        super().__init__()
        one_of(WAYS, way=way)
        one_of(GRADIENTS, gradient=gradient)
        one_of(AXES, along=along)
        positive(decay_rate=decay_rate)
        at_least(1, geometric_frames=geometric_frames)
        at_least(0, dense_epochs=dense_epochs, fine_tune_epochs=fine_tune_epochs)
        if way.startswith("mdgf") and decay_rate is None:
            raise ValueError(
                f"decay_rate must be set for way {way}, so that the decay factor is near 0 long before training ends"
            )
        if way in ("ste", "sr_ste") and gradient != "ste":
            raise ValueError(f"gradient must be ste for way {way}, got {gradient}")
        only_with("way mdgf_linear or mdgf_exponential", way.startswith("mdgf"), NMSparsity, decay_rate=decay_rate)
        framed = way in ("sdgf_geometric", "sdgf_densifying")
        only_with("way sdgf_geometric or sdgf_densifying", framed, NMSparsity, geometric_frames=geometric_frames)
        refuse_smoothed(soft_labels, binary)
        self.network = network
        self.num_classes = num_classes
        flow = Flow(way, decay_rate or 0.0, gradient, dense_epochs, fine_tune_epochs, geometric_frames)
        self.functions: list[NMWeight] = sparsify(network, n, m, layers, own or {}, along, flow)
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
                f"trainer.max_epochs must be above the sum of dense_epochs {flow.dense_epochs} and "
                f"fine_tune_epochs {flow.fine_tune_epochs}, got {self.trainer.max_epochs}"
            )

    @property
    def _length(self) -> tuple[int, float]:
        """The total number of epochs, and the number of optimizer steps per epoch."""
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        return self.trainer.max_epochs or 0, steps

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
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
